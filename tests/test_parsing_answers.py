import pytest

from hmba_hf.models.parsing_answers import answer_spans, mark_tokens

ASK, SAY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"}


def render(messages, asks):
    return "".join("Q" + m["content"] if m["role"] == "user" else ":" + m["content"] for m in messages) + ":" * asks


def test_each_answer_begins_where_its_prompt_ends():
    assert answer_spans([ASK, SAY, ASK, SAY], render) == [(3, 5), (8, 10)]
    assert answer_spans([ASK], render) == []


def test_an_end_that_a_template_writes_once_behind_a_chat_belongs_to_its_last_answer():
    def closed(messages, asks):
        return render(messages, asks) + "$" * (not asks)

    assert answer_spans([ASK, SAY, ASK, SAY], closed, "$") == [(3, 5), (8, 11)]
    assert answer_spans([ASK, SAY, ASK], closed, "$") == [(3, 5)]
    with pytest.raises(ValueError, match=r"got 'Qa\$' in the place of '\$'"):
        answer_spans([ASK, SAY, ASK], closed)


def test_the_place_where_a_template_differs_from_its_prompt_is_shown():
    with pytest.raises(ValueError, match="got 'bc' in the place of '!'"):
        answer_spans([ASK, SAY], lambda messages, asks: render(messages, asks) + "!" * asks)


def test_tokens_that_reach_into_an_answer_are_marked_behind_any_number_of_replacements():
    grown = [{"span": (1, 2), "new_span": (1, 5)}, {"span": (3, 4), "new_span": (6, 7)}]  # 3 and 3 characters more
    offsets = [(0, 0), (0, 1), (1, 5), (5, 7), (7, 9), (9, 10), (0, 0)]
    assert mark_tokens([(5, 6)], offsets, grown) == [0, 0, 0, 0, 1, 0, 0]
    assert mark_tokens([(2, 3)], offsets, grown) == [0, 0, 0, 1, 0, 0, 0]
    assert mark_tokens([(0, 1)], offsets, grown) == [0, 1, 0, 0, 0, 0, 0]
    assert mark_tokens([(0, 2)], offsets, []) == [0, 1, 1, 0, 0, 0, 0]
