"""Our model for lmms-eval, which is not a dependency of ours.

After pip install lmms-eval:

    python -m eval.export.lmms_eval_model --model skingpt4 --model_args checkpoint=runs/quickstart/step2 --tasks ...

This is lmms-eval's own command line with one model more; all its options work. Written against lmms-eval 0.7.3, whose
installed package can also find the model by an entry point of the group `lmms_eval.models` that names
`eval.export.lmms_eval_model:manifest`. Research software, not a medical device.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from skingpt4.chat.session import ChatSession
from skingpt4.checkpoints.load import load_model, model_source
from skingpt4.generation.sampling import Generation
from skingpt4.model.network import cut_at
from skingpt4.model.prompts import Turn, without_placeholders
from skingpt4.support.files import private_files

try:
    from lmms_eval.api.model import lmms
except ImportError as error:
    text = f"lmms-eval is not installed here ({error}); pip install lmms-eval"
    if __name__ == "__main__":
        sys.exit(f"error: {text}")
    raise ImportError(text) from error

NAME = "skingpt4"


class SkinGPT4ForLmmsEval(lmms):
    """One conversation of one turn for each request; requests are answered one at a time."""

    is_simple = True

    def __init__(
        self,
        config: str | None = None,
        checkpoint: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        max_new_tokens: int = 160,
        **unknown: Any,
    ) -> None:
        """Load the model.

        Args:
            config: a YAML file; may be left out where the checkpoint knows its own.
            checkpoint: a checkpoint or a run's folder.
            batch_size: 1; lmms-eval passes it, and more is refused rather than passed over.
            device: as torch names it; None takes the best.
            max_new_tokens: of answers whose task does not say.
            unknown: refused.

        Raises:
            ValueError: an argument that does not exist, or a batch of more than 1.
        """
        super().__init__()
        if unknown:
            raise ValueError(
                f"skingpt4 has no argument {', '.join(unknown)}; config, checkpoint, max_new_tokens"
            )
        if int(batch_size) != 1:
            raise ValueError("skingpt4 answers lmms-eval's requests one at a time; leave --batch_size at 1")
        source = model_source(config, checkpoint)
        model = load_model(source.loadable, source.checkpoint_path, torch.device(device) if device else None)
        self.session = ChatSession(model, source.config)
        self.max_new_tokens = max_new_tokens

    def _show(self, context: str, doc_to_visual: Any, doc_id: Any, task: str, split: str) -> str:
        """Begin a new conversation with the request's pictures; returns its question without places for them."""
        self.session.reset()
        doc = self.task_dict[task][split][doc_id]
        for picture in (doc_to_visual(doc) if callable(doc_to_visual) else None) or ():
            self.session.add_image(picture)
        return without_placeholders(context.replace("<image>", ""))

    def generate_until(self, requests: list[Any]) -> list[str]:
        """An answer for each request, cut at the first of its stop strings."""
        answers = []
        for request in tqdm(requests, desc="skingpt4", disable=self.rank != 0):
            context, options, *place = request.args
            until = options.get("until") or ()
            temperature = float(options.get("temperature") or 0) if options.get("do_sample", True) else 0.0
            generation = Generation(
                max_new_tokens=int(options.get("max_new_tokens") or self.max_new_tokens),
                temperature=temperature,
                top_p=float(options.get("top_p") or 1.0),
                num_beams=int(options.get("num_beams") or 1),
            )
            text = self.session.ask(self._show(context, *place), generation)
            answers.append(cut_at(text, [until] if isinstance(until, str) else list(until)))
        return answers

    @torch.no_grad()
    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, natural logarithm; whether greedy decoding would write it)."""
        model, results = self.session.model, []
        for request in tqdm(requests, desc="skingpt4", disable=self.rank != 0):
            context, continuation, *place = request.args
            question = self._show(context, *place)
            if callable(continuation):
                continuation = continuation(self.task_dict[place[2]][place[3]][place[1]])
            prompt = self.session.encode([Turn(question, None, self.session.waiting)]).input_ids
            tail = model.tokenizer(str(continuation).strip(), add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*prompt, *tail]])
            queries = torch.cat(self.session.queries) if self.session.queries else None
            embeds = model.embed(ids, queries)
            logits = model.language_model(inputs_embeds=embeds, logits_to_keep=len(tail) + 1).logits[0, :-1]
            targets = torch.tensor(tail, device=logits.device)
            log_p = logits.float().log_softmax(-1).gather(1, targets[:, None])
            results.append((float(log_p.sum()), bool((logits.argmax(-1) == targets).all())))
        return results

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not supported: such tasks write their later questions from the model's answers."""
        raise NotImplementedError(
            "skingpt4 answers no multi-round tasks of lmms-eval; use python -m eval.run"
        )


def manifest() -> Any:
    """What an entry point of the group `lmms_eval.models` returns."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        NAME, simple_class_path=f"{SkinGPT4ForLmmsEval.__module__}.{SkinGPT4ForLmmsEval.__name__}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """lmms-eval's command line with our model among its own."""
    from lmms_eval.__main__ import cli_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2

    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    if argv is not None:
        sys.argv[1:] = argv
    with private_files():  # lmms-eval logs answers and paths of pictures
        cli_evaluate()


if __name__ == "__main__":
    from eval.export import lmms_eval_model  # the module as lmms-eval imports it, not this script

    lmms_eval_model.main()
