"""Texts merged into trees, and which of them stand in one row."""

import random

import torch

from skingpt4.generation.tree import Tree, split_texts


def test_a_tree_holds_each_beginning_once_and_every_token_sees_its_text_alone():
    tree = Tree([[5, 6, 7], [5, 6, 8, 9], [4, 7]], [1, 2, 1], None)
    assert tree.ids == [5, 6, 7, 8, 9, 4, 7]
    assert tree.depths == [0, 1, 2, 2, 3, 0, 1]
    assert tree.paths == [[0, 1, 2], [0, 1, 3, 4], [5, 6]]
    assert tree.counted == [1, 2, 3, 4, 6]
    assert tree.sees()[4].nonzero().flatten().tolist() == [0, 1, 3, 4]
    assert tree.sums(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])).tolist() == [3.0, 12.0, 16.0]


def test_last_tokens_need_not_be_read():
    tree = Tree([[5, 6, 7], [5, 6, 8, 9], [4, 6], [4, 6, 3]], [1, 1, 1, 1], None, with_ends=False)
    assert [tree.ids[node] for node in tree.read] == [5, 6, 8, 4, 6]
    assert [tree.ids[node] for node in tree.counted] == [6, 7, 8, 9, 6, 3]
    assert tree.sees()[2].tolist() == [True, True, True, False, False]
    assert tree.sees()[4].tolist() == [False, False, False, True, True]
    assert all(tree.parents[node] in tree.columns for node in tree.counted)


def test_texts_are_grouped_by_their_beginnings_in_groups_of_about_the_same_width():
    rng = random.Random(0)
    for _ in range(30):
        texts = [[rng.randrange(4) for _ in range(rng.randint(1, 8))] for _ in range(rng.randint(1, 60))]
        width = rng.randint(5, 80)
        groups = split_texts(texts, width)
        assert sorted(number for group in groups for number in group) == list(range(len(texts)))
        ordered = [texts[number] for group in groups for number in group]
        assert ordered == sorted(texts)
        widths = [len(Tree([texts[n] for n in group], [0] * len(group), None).ids) for group in groups]
        assert max(widths) <= 2 * width + 8
