"""Rows of our own in the schemas of public data sets, by the names of FORMATS.

Each list is a small file. The schemas are described at the `url` of each format.
"""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]

ASKED = {"role": "user", "content": "Name a fruit"}
GOOD = {"role": "assistant", "content": "Apple"}
BAD = {"role": "assistant", "content": "Car"}

_BEGIN = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: "


def _completion(response: str, *ratings: str) -> dict[str, Any]:
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    annotations = {
        aspect: {"Rating": rating, "Rationale": "because"}
        for aspect, rating in zip(aspects, ratings, strict=True)
    }
    return {
        "annotations": annotations, "critique": "fine", "custom_system_prompt": "Be kind.",
        "model": "m", "overall_score": 10.0, "principle": "helpfulness", "response": response,
    }  # fmt: skip


def _message(id: str, parent: str | None, role: str, text: str, **more: Any) -> dict[str, Any]:
    return {
        "message_id": id, "parent_id": parent, "text": text, "role": role, "lang": "en",
        "rank": None, "deleted": False, "review_result": True, "message_tree_id": "t", **more,
    }  # fmt: skip


PUBLIC_ROWS: dict[str, Rows] = {
    "hh_rlhf": [
        {
            "chosen": f"{_BEGIN}Name a fruit\n\nAssistant: Apple",
            "rejected": f"{_BEGIN}Name a fruit\n\nAssistant: Car",
        },
    ],
    "ultrafeedback": [
        {
            "source": "evol_instruct", "instruction": "Name a fruit", "models": ["a", "b", "c"],
            "correct_answers": ["None"], "incorrect_answers": ["None"],
            "completions": [
                _completion("Car", "1", "1", "2", "N/A"),
                _completion("Apple", "5", "5", "5", "4"),
                _completion("Pear", "5", "5", "5", "4"),
            ],
        },
    ],
    "ultrafeedback_binarized": [
        {
            "prompt": "Name a fruit", "prompt_id": "x", "chosen": [ASKED, GOOD],
            "rejected": [ASKED, BAD], "messages": [ASKED, GOOD],
            "score_chosen": 8.5, "score_rejected": 2.0,
        },
    ],
    "helpsteer2": [
        {"prompt": "Name a fruit", "response": response, "helpfulness": score, "correctness": 4,
         "coherence": 4, "complexity": 0, "verbosity": 1}
        for response, score in (("Car", 0), ("Apple", 4))
    ],
    "helpsteer2_preference": [
        {
            "split": "train", "prompt": "Name a fruit", "response_1": "Apple", "response_2": "Car",
            "preference_strength": -2, "preference_statement": "@Response 1 is better",
        },
    ],
    "helpsteer3": [
        {
            "domain": "general", "language": "english", "context": [ASKED],
            "response1": "Car", "response2": "Apple", "overall_preference": 2,
            "individual_preference": [
                {"score": 2, "reasoning": "a fruit"},
                {"score": 3, "reasoning": "a fruit"},
                {"score": -1, "reasoning": "cars are fun"},
            ],
        },
    ],
    "pku_saferlhf": [
        {
            "prompt": "Name a fruit", "prompt_source": "x", "response_0": "Car",
            "response_1": "Apple", "is_response_0_safe": True, "is_response_1_safe": True,
            "better_response_id": 1, "safer_response_id": 0,
        },
    ],
    "nectar": [
        {
            "prompt": "\n\nHuman: Name a fruit\n\nAssistant: ", "turns": 1, "num_responses": 3,
            "answers": [
                {"answer": "Apple", "model": "a", "rank": 1.0},
                {"answer": "Pear", "model": "b", "rank": 2.0},
                {"answer": "Car", "model": "c", "rank": 3.0},
            ],
            "source": ["x"], "good_natured": True,
        },
    ],
    "shp": [
        {
            "post_id": "a", "domain": "askculinary_train", "upvote_ratio": 0.98,
            "history": "Name a fruit", "c_root_id_A": "b", "c_root_id_B": "c",
            "created_at_utc_A": 2, "created_at_utc_B": 1, "score_A": 340, "score_B": 166,
            "human_ref_A": "Apple", "human_ref_B": "Car", "labels": 1,
            "seconds_difference": 1.0, "score_ratio": 2.04,
        },
    ],
    "orca_dpo": [
        {"system": "Be brief.", "question": "Name a fruit", "chosen": "Apple", "rejected": "Car"},
    ],
    "llama_factory": [
        {"instruction": "Name", "input": "a fruit", "chosen": "Apple", "rejected": "Car"},
        {
            "conversations": [{"from": "human", "value": "Name\na fruit"}],
            "chosen": {"from": "gpt", "value": "Apple"},
            "rejected": {"from": "gpt", "value": "Car"},
        },
    ],
    "alpaca": [
        {"instruction": "Name", "input": "a fruit", "output": "Apple"},
        {"instruction": "Another", "input": "", "output": "Pear", "system": "Be brief.",
         "history": [["Name a fruit", "Apple"]]},
    ],
    "sharegpt": [
        {
            "id": "s", "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Name a fruit"},
                {"from": "gpt", "value": "Apple"}, {"from": "human", "value": "Another"},
                {"from": "gpt", "value": "Pear"}, {"from": "human", "value": "Thanks"},
            ],
        },
    ],
    "oasst_trees": [
        {
            "message_tree_id": "t", "tree_state": "ready_for_export",
            "prompt": {
                **_message("a", None, "prompter", "Name a fruit"),
                "replies": [
                    {**_message("b", "a", "assistant", "Car", rank=1), "replies": []},
                    {
                        **_message("c", "a", "assistant", "Apple", rank=0),
                        "replies": [
                            {
                                **_message("d", "c", "prompter", "Another"),
                                "replies": [_message("e", "d", "assistant", "Pear")],
                            },
                        ],
                    },
                ],
            },
        },
    ],
    "oasst_messages": [
        _message("a", None, "prompter", "Name a fruit"),
        _message("b", "a", "assistant", "Car", rank=1),
        _message("c", "a", "assistant", "Apple", rank=0),
        _message("d", "c", "prompter", "Another"),
        _message("e", "d", "assistant", "Pear"),
    ],
    "reward_bench": [
        {
            "prompt": "Name a fruit", "chosen": "Apple", "chosen_model": "a", "rejected": "Car",
            "rejected_model": "b", "subset": "alpacaeval-easy", "id": 30,
        },
    ],
    "reward_bench_2": [
        {
            "id": "7", "prompt": "Name a fruit", "chosen": ["Apple"],
            "rejected": ["Car", "Chair", "Boat"], "num_correct": 1, "num_incorrect": 3,
            "total_completions": 4, "models": ["a"], "subset": "Focus",
        },
    ],
    "rm_bench": [
        {
            "id": "chat/1", "prompt": "Name a fruit", "chosen": ["Apple", "An apple", "*Apple*"],
            "rejected": ["Car", "A car", "*Car*"], "domain": "chat",
        },
    ],
    "judge_bench": [
        {
            "pair_id": "x", "original_id": "1", "source": "mmlu-pro", "question": "Name a fruit",
            "response_model": "m", "response_A": "Car", "response_B": "Apple", "label": "B>A",
        },
    ],
    "trl": [
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Name a fruit", "chosen": "Apple", "rejected": "Car"},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    ],
}  # fmt: skip
