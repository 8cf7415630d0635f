// What the consultation page does in the browser itself, beside Gradio; layout.py calls these functions by name.
window.consultationPage = {
  // Once, when the page is loaded. A pasted image goes through the upload's own file input: Gradio alone reads the
  // clipboard only on a click. Office programs put an image beside copied text; the text goes into a text box.
  start(language, title) {
    const fileInput = () => document.querySelector("#picture input[type=file]");
    document.addEventListener("paste", async event => {
      const file = [...event.clipboardData.files].find(item => item.type.startsWith("image/"));
      const text = event.clipboardData.types.includes("text/plain") && event.target.closest("input, textarea");
      if (!file || text || !document.querySelector("#picture")) return;
      event.preventDefault();
      // The input exists only while "upload" is the open source; switching to it takes a moment.
      if (!fileInput()) document.querySelector("#picture .source-selection button").click();
      for (let tries = 0; !fileInput() && tries < 40; tries++) await new Promise(done => setTimeout(done, 50));
      const input = fileInput();
      if (!input) return;
      const sent = new DataTransfer();
      sent.items.add(file);
      input.files = sent.files;
      input.dispatchEvent(new Event("change", {bubbles: true}));
    });
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
