// What the consultation page does in the browser itself, beside Gradio; layout.py calls these functions by name.
(() => {
  const input = "#picture input[type=file]";

  // The picture among files, as a file that Gradio takes, if it would not take it otherwise; null if all is well, or if
  // there are several pictures or none. Browsers know no type for IMG_0001.HEIC, .jp2 or a name without a suffix: the
  // server looks at the content. A live photo is a picture and a film, which is left out.
  function picture(files) {
    const film = /\.(mov|mp4|m4v|3gp|avi|mkv|webm)$/i;
    const pictures = [...files].filter(
      file => /^(image\/.*|application\/(octet-stream|dicom)|)$/.test(file.type) && !film.test(file.name));
    const [file] = pictures;
    if (pictures.length !== 1 || (files.length === 1 && file.type.startsWith("image/"))) return null;
    const sent = new DataTransfer();
    sent.items.add(file.type.startsWith("image/") ? file : new File([file], file.name, {type: "image/unknown"}));
    return sent;
  }

  // All before Gradio's own listeners. On a phone `accept` offers the camera and the photos; elsewhere it would hide
  // files without a type.
  addEventListener("click", event => {
    if (event.target.matches?.(input) && !matchMedia("(pointer: coarse)").matches) event.target.accept = "";
  }, true);
  addEventListener("change", event => {
    const sent = event.target.matches?.(input) && picture(event.target.files);
    if (sent) event.target.files = sent.files;
  }, true);
  addEventListener("drop", event => {
    const sent = event.target.closest?.("#picture") && picture(event.dataTransfer.files);
    if (!sent) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    event.target.dispatchEvent(new DragEvent("drop", {dataTransfer: sent, bubbles: true, cancelable: true}));
  }, true);

  // Gradio's conversation scrolls; by keyboard it does so only where it can have the focus.
  const focusable = () => document.querySelectorAll("#chat .bubble-wrap:not([tabindex])").forEach(
    conversation => { conversation.tabIndex = 0; });

  window.consultationPage = {
    // Once, when the page is loaded. A pasted image goes through the upload's own file input: Gradio alone reads the
    // clipboard only on a click. Office programs put an image beside copied text; the text goes into a text box.
    start(language, title) {
      const fileInput = () => document.querySelector(input);
      document.addEventListener("paste", async event => {
        const pasted = picture(event.clipboardData.files)?.files ?? event.clipboardData.files;
        const file = [...pasted].find(item => item.type.startsWith("image/"));
        const text = event.clipboardData.types.includes("text/plain") && event.target.closest("input, textarea");
        if (!file || text || !document.querySelector("#picture")) return;
        event.preventDefault();
        // The input exists only while "upload" is the open source; switching to it takes a moment.
        if (!fileInput()) document.querySelector("#picture .source-selection button").click();
        for (let tries = 0; !fileInput() && tries < 40; tries++) await new Promise(done => setTimeout(done, 50));
        const target = fileInput();
        if (!target) return;
        const sent = new DataTransfer();
        sent.items.add(file);
        target.files = sent.files;
        target.dispatchEvent(new Event("change", {bubbles: true}));
      });
      new MutationObserver(focusable).observe(document.body, {childList: true, subtree: true});
      focusable();
      document.documentElement.lang = language;
      document.title = title;
    },

    scrollToTop(accepted) {
      window.scrollTo(0, 0);
      return [accepted];
    },

    saveFile(file) {
      if (!file) return;
      const [name, url] = file;
      const link = Object.assign(document.createElement("a"), {href: url, download: name});
      document.body.append(link);
      link.click();
      link.remove();
    },
  };
})();
