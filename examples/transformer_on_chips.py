"""A transformer on chips: BERT or GPT-2, tiny and built from its configuration, nothing is downloaded.

    pip install 'bitline[hf]' && python examples/transformer_on_chips.py bert

The task: does a sentence hold a word of the one kind or of the other, among fillers? The network is trained in float,
its linear layers (queries, keys, values and outputs of attention, and the feed-forward) are put on a macro, fine-tuned
on its errors, and tested on chips. Embeddings, norms, the two products of attention and the last layer stay digital.
"""

import copy
import sys
from pathlib import Path

import torch
import transformers
from rich.console import Console

import bitline as bl
from bitline.report import mapping_table

WORDS, LENGTH = 32, 12
LAST = {"bert": "*.classifier", "gpt2": "*.score"}  # two outputs: not worth an array
PAD, START, FIRST_KIND, SECOND_KIND, FILLERS = 0, 1, 2, 6, 10  # numbers of the words
CELLS = {
    "name": "signed inputs, pairs of 16-level cells",
    "rows": 128,
    "columns": 128,
    "inputs": {"kind": "twos_complement", "bits": 6},
    "weights": {"kind": "differential", "bits": 5, "cell_bits": 4},
    "cell": {"errors": [{"kind": "gaussian", "sigma": 0.1}]},
    "converter": {"bits": 8, "range": "calibrated", "noise": 0.3},
}


def sentences(count: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of (word numbers, kind, index); sentences have 6 … ``LENGTH`` words and are filled up with ``PAD``."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high, *size: torch.randint(0, high, size, generator=generator)  # noqa: E731
    ids, kind, length = FILLERS + draw(WORDS - FILLERS, count, LENGTH), draw(2, count), 6 + draw(LENGTH - 5, count)
    place = (torch.rand(count, generator=generator) * length).long()
    ids[torch.arange(count), place] = torch.where(kind == 0, FIRST_KIND, SECOND_KIND) + draw(4, count)
    ids[torch.arange(LENGTH) >= length[:, None]] = PAD
    ids = torch.cat([torch.full((count, 1), START), ids], 1)
    return [(ids[i], kind[i], i) for i in torch.arange(count).split(64)]


def network(name: str) -> bl.networks.TokenClassifier:
    """Two layers of width 32 with two heads."""
    torch.manual_seed(0)
    if name == "bert":
        config = transformers.BertConfig(
            vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=LENGTH + 1, initializer_range=0.1, num_labels=2,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        return bl.networks.TokenClassifier(transformers.BertForSequenceClassification(config), PAD)
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=32, n_layer=2, n_head=2, n_positions=LENGTH + 1, initializer_range=0.1, num_labels=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, pad_token_id=PAD, bos_token_id=START, eos_token_id=START,
    )  # fmt: skip
    return bl.networks.TokenClassifier(transformers.GPT2ForSequenceClassification(config), PAD)


def main(name: str, chips: int = 20) -> None:
    """Train, convert, fine-tune, test, and write what was found."""
    training, test = sentences(2048, seed=0), sentences(512, seed=1)
    adam = {"optimizer": {"kind": "adamw"}, "schedule": {"kind": "cosine"}}
    net = network(name)
    bl.train(net, training, config=bl.TrainConfig(epochs=4, lr=2e-3, **adam))
    macro = bl.Macro.model_validate(CELLS)
    untouched = bl.calibrate(bl.convert(net, macro, skip=[LAST[name]]), training)
    tuned = copy.deepcopy(untouched)
    bl.train(tuned, training, config=bl.TrainConfig(epochs=4, lr=1e-3, clip=1.0, **adam))
    result = bl.evaluate({"float": net, "untouched": untouched, "error-aware": tuned}, test, chips=chips, title=name)
    Console(width=150).print(mapping_table(bl.mapping(tuned)))
    print(result.sentence)
    bl.write_html(result, Path("out") / f"{name}.html")
    print(f"report: {Path('out') / f'{name}.html'}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "bert")
