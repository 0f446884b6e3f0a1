"""The protections, each with the change that takes it out and the test that must then fail."""

from __future__ import annotations

from dataclasses import dataclass

ENGINE = "tests/engine"


@dataclass(frozen=True)
class Mutant:
    """In `file` (below the package), `snippet` becomes `replacement`; `tests` must fail."""

    invariant: str
    name: str
    file: str
    snippet: str
    replacement: str
    tests: tuple[str, ...]
    only: str = ""


def _mutant(
    invariant: str, name: str, file: str, snippet: str, replacement: str, test: str, only: str = ""
) -> Mutant:
    return Mutant(invariant, name, file, snippet, replacement, (f"{ENGINE}/test_{test}.py",), only)


MUTANTS: tuple[Mutant, ...] = (
    _mutant(
        "untouched", "an edit of nothing changes the last bits", "engine/tap.py",
        "return (hidden_TD.float() + delta_TD).to(hidden_TD.dtype)",
        "return (hidden_TD.float() * (1 + 1e-6) + delta_TD).to(hidden_TD.dtype)",
        "untouched",
    ),
    _mutant(
        "isolated", "every token gets the first request's program", "engine/steering_state.py",
        "rows_T = np.repeat(rows_B, counts_B)",
        "rows_T = np.full(int(counts_B.sum()), rows_B.max())",
        "isolated",
    ),
    _mutant(
        "isolated", "a policy's span spills over its neighbours", "engine/steering_state.py",
        "low = max(span.start, start) - start + first",
        "low = 0",
        "isolated",
    ),
    _mutant(
        "parity", "reads forget the deferred residual", "engine/tap.py",
        "stream_TD = stream_TD + residual_TD",
        "stream_TD = stream_TD + 0 * residual_TD",
        "parity", "chunks and llama",
    ),
    _mutant(
        "parity", "the first output token counts as prompt", "engine/steering_state.py",
        "(positions_T[:, None] >= self._starts_RG",
        "(positions_T[:, None] > self._starts_RG",
        "parity", "chunks and gpt2",
    ),
    _mutant(
        "parity", "a tap sits one block too low", "engine/instruments.py",
        "point, tap = self._decoder.point(*place), taps[place]",
        "point, tap = self._decoder.point(max(place.layer - 1, 0), place.site), taps[place]",
        "parity", "chunks and opt",
    ),
    _mutant(
        "parity", "projections do not see what maps wrote", "edit/assembly.py",
        "np.where(later_RR, reads_RD @ writes_RD.T, 0.0)",
        "np.where(later_RR, 0.0, 0.0)",
        "operator_parity", "eager",
    ),
    _mutant(
        "parity", "an adaptive turn turns every token", "engine/kernel.py",
        "share_TP2 = torch.where(open_TP1, share_TP2, torch.zeros_like(share_TP2))",
        "assert open_TP1.dtype is torch.bool",
        "operator_parity", "eager",
    ),
    _mutant(
        "parity", "a slerp goes all the way", "engine/kernel.py",
        "left_T = (1.0 - share_T) * torch.atan2(across_T, along_T)",
        "left_T = 0.0 * torch.atan2(across_T, along_T)",
        "operator_parity", "eager",
    ),
    _mutant(
        "parity", "a compiled tap reads what lay there before", "engine/tap.py",
        "hidden_TD = settled(hidden_TD)",
        "hidden_TD = hidden_TD",
        "operator_parity", "compiled",
    ),
    _mutant(
        "isolated", "rows are of the first request's program", "engine/kernel.py",
        "(stream_TD * reads_SRD[slot_T, r])",
        "(stream_TD * reads_SRD[slot_T[:1], r])",
        "kernel",
    ),
    _mutant(
        "parity", "every code that is over zero counts as chosen", "engine/latents.py",
        "torch.where(is_on_TR, kept_TR.clamp_min(0.0), 0.0)",
        "torch.where(is_on_TR | ~is_on_TR, kept_TR.clamp_min(0.0), 0.0)",
        "features", "kernel_does and topk",
    ),
    _mutant(
        "parity", "what a normalised row writes is not undone", "engine/inside.py",
        "return values_TR if self.back_TR is None else values_TR * self.back_TR",
        "return values_TR",
        "features", "kernel_does and layer",
    ),
    _mutant(
        "isolated", "a code is of the first token's feature", "engine/inside.py",
        "feature_TR = number_TR - first",
        "feature_TR = (number_TR - first)[:1].expand(stream_TD.shape[0], -1)",
        "features", "own_feature",
    ),
    _mutant(
        "parity", "an SAE of centred streams sees their mean", "engine/inside.py",
        "if statistic_TR is not None or any(each.facts.is_measured for each in latents):",
        "if statistic_TR is not None:",
        "features", "kernel_does and centred",
    ),
    _mutant(
        "parity", "many features are chosen where few would not be", "engine/choice.py",
        "(is_least_TM.cumsum(-1) <= left_T1)",
        "(is_least_TM.cumsum(-1) >= left_T1)",
        "columns", "equal",
    ),
    _mutant(
        "parity", "a policy's code does not see its own feature", "engine/policy_stage.py",
        "wide_KK[k] = [(each.latent, each.feature) == (row.latent, row.feature) for each in rows]",
        "wide_KK[k] = 0.0",
        "policy_features", "last_word",
    ),
    _mutant(
        "untouched", "a slot keeps what it held", "engine/tables.py",
        "table[slot].zero_()",
        "table[slot].abs_()",
        "kernel",
    ),
    _mutant(
        "cache-sound", "where an edit holds is not in the key", "engine/timeline.py",
        "(*track, max(low, start) - start, min(high, stop) - start)",
        "(*track, 0, 0)",
        "timeline",
    ),
    _mutant(
        "never-silent", "an operator without tables is taken", "engine/fit.py",
        "if missing is not None:",
        "if missing == '':",
        "never_silent", "no_valid_seal",
    ),
    _mutant(
        "cache-sound", "edited blocks keep vLLM's own hash", "engine/scheduler.py",
        "if passenger.programs or self._plan.body.policy_targets:",
        "if False:",
        "cache_sound", "plain_after_steered",
    ),
    _mutant(
        "cache-sound", "the strength is not in the key", "engine/timeline.py",
        "return edit.stage, edit.digest, edit.coefficient.hex()",
        'return edit.stage, edit.digest, ""',
        "cache_sound", "another_program",
    ),
    _mutant(
        "cache-sound", "blocks after the last edited one are shared", "engine/cache_identity.py",
        "if self._running is None:",
        "if key is None:",
        "cache_identity",
    ),
    _mutant(
        "cache-sound", "policy steering is not in the key", "engine/orders.py",
        'passenger.timeline.impose(Edit(start, stop, digest, order.coefficient, "policy"))',
        "del digest",
        "cache_sound", "plain_turn_two",
    ),
    _mutant(
        "cache-sound", "prompts under an enforced rule read the cache", "engine/scheduler.py",
        "request.skip_reading_prefix_cache = True",
        "request.skip_reading_prefix_cache = False",
        "cache_sound", "jailbreak",
    ),
    _mutant(
        "never-silent", "no setting is refused", "engine/refusals.py",
        "if refusal.applies(value):",
        "if refusal.applies(None):",
        "never_silent", "refused_flag",
    ),
    _mutant(
        "never-silent", "any seal is good", "sealed.py",
        "if not hmac.compare_digest(mac, _mac(body, key)):",
        "if not mac:",
        "never_silent", "no_valid_seal",
    ),
    _mutant(
        "never-silent", "a seal of another plan is good", "engine/revisions.py",
        "known = self._kept.get(revision)",
        "known = next(iter(self._kept.values()))",
        "never_silent", "no_valid_seal",
    ),
    _mutant(
        "reload-atomic", "a request's later tokens are steered by the newest plan",
        "engine/orders.py",
        "RequestPrograms(terms, passenger.plan)",
        "RequestPrograms(terms, self._plan)",
        "reload_atomic", "in_flight",
    ),
    _mutant(
        "reload-atomic", "a plan goes while requests run under it", "engine/revisions.py",
        "if kept.holders or kept.num_requests:",
        "if kept.holders:",
        "revisions", "last_request",
    ),
    _mutant(
        "reload-atomic", "a plan goes while a process seals under it", "engine/revisions.py",
        "if kept.holders or kept.num_requests:",
        "if kept.num_requests:",
        "revisions", "lags",
    ),
    _mutant(
        "reload-atomic", "the last of two reloads wins", "engine/revisions.py",
        "if self.newest.revision != base or revision not in self._kept:",
        "if revision not in self._kept:",
        "revisions", "of_two",
    ),
    _mutant(
        "reload-atomic", "any plan can follow", "engine/revisions.py",
        "if plan.installation != self.newest.installation:",
        "if not plan.installation:",
        "revisions", "another_installation",
    ),
    _mutant(
        "never-silent", "a probe that differs is passed over", "engine/succession.py",
        "elif had[name] != got[name]:",
        "elif had[name] is None:",
        "succession", "read_at_start",
    ),
    _mutant(
        "never-silent", "a vector without a tap is loaded", "engine/reserve.py",
        "if lack is not None:",
        "if lack == '':",
        "succession", "without_a_tap",
    ),
    Mutant(
        "reload-atomic", "an edition goes while a request is under it", "server/edition.py",
        "return revision != self.newest.plan.revision and not self._num_requests[revision]",
        "return revision != self.newest.plan.revision",
        ("tests/server/test_edition.py",),
    ),
    _mutant(
        "never-silent", "a request waits for a slot for ever", "engine/orders.py",
        "if waited_ms > passenger.plan.body.limits.max_wait_ms:",
        "if waited_ms < 0:",
        "never_silent", "waits_too_long",
    ),
    _mutant(
        "nothing-leaves", "tokens leave before they are scored", "engine/shaping.py",
        "if passenger.held is not None:\n            self._hold(",
        "if passenger.held is not None and output.finish_reason:\n            self._hold(",
        "nothing_leaves", "sync and withholds_the_token",
    ),
    _mutant(
        "nothing-leaves", "a running streak leaves", "engine/governor.py",
        "np.maximum(scored_C - kept_C, 0)",
        "scored_C",
        "nothing_leaves", "sync and three_tokens",
    ),
    _mutant(
        "nothing-leaves", "the token of the verdict's step leaves", "engine/compat/outputs.py",
        "        request_id=output.request_id,\n        new_token_ids=[],\n"
        "        finish_reason=STOP,",
        "        request_id=output.request_id,\n        new_token_ids=output.new_token_ids,\n"
        "        finish_reason=STOP,",
        "nothing_leaves", "sync and withholds_the_token",
    ),
    _mutant(
        "nothing-leaves", "held tokens leave with the verdict", "engine/governor.py",
        "watched.cleared_at_end = max(0, min(cleared, self.scored(watched) - 1))",
        "watched.cleared_at_end = self.scored(watched)",
        "nothing_leaves", "sync and three_tokens",
    ),
    _mutant(
        "nothing-leaves", "the last token is never fed", "engine/scheduler.py",
        "request.max_tokens += 1",
        "request.max_tokens += 0",
        "nothing_leaves", "sync and length_end_gives",
    ),
    _mutant(
        "nothing-leaves", "a score that is missing passes for harmless", "engine/governor.py",
        "missing_BR &= active_BR",
        "missing_BR[:] = False",
        "nothing_leaves", "sync and overflows_blocks",
    ),
    _mutant(
        "nothing-leaves", "the visible limit is not kept", "engine/holdback.py",
        "limit = min(up_to, self.visible_limit)",
        "limit = up_to",
        "holdback",
    ),
    _mutant(
        "nothing-leaves", "an uncleared token is exchanged", "engine/holdback.py",
        "if min(up_to, self.visible_limit) != self.released + 1 or",
        "if",
        "nothing_leaves", "sync and three_tokens",
    ),
    _mutant(
        "engine-survives", "a broken seal kills the scheduler", "engine/scheduler.py",
        "except RequestError as error:",
        "except KeyError as error:",
        "never_silent", "no_valid_seal",
    ),
    _mutant(
        "engine-survives", "scores of ended requests are kept", "engine/scheduler.py",
        "self._governor.close(request_id)",
        "pass",
        "engine_survives",
    ),
    _mutant(
        "engine-survives", "slots of ended requests are kept", "engine/orders.py",
        "self._slots.release({each.digest for each in passenger.programs})",
        "pass",
        "engine_survives",
    ),
    _mutant(
        "engine-survives", "an edit that overflows is taken", "engine/overflow.py",
        "if not largest < LARGEST_EDIT:",
        "if largest < 0:",
        "engine_survives",
    ),
    _mutant(
        "fully-scored", "cached tokens are not counted", "engine/watches.py",
        "self.unscored_C[rows_B] += np.maximum(starts_B - cursor_B, 0)",
        "pass",
        "cache_sound", "shadow_reads",
    ),
    _mutant(
        "fully-scored", "what earlier stages read stays there", "engine/stage.py",
        "scores_NE[: scores_TE.shape[0]].copy_(scores_TE)",
        "pass",
        "parallel", "stages",
    ),
    _mutant(
        "streaming", "rejected drafts are folded", "engine/speculation.py",
        "np.minimum(counts_B, kept_B)",
        "counts_B",
        "speculation", "knowing",
    ),
    _mutant(
        "streaming", "tokens accepted behind a verdict are folded", "engine/governor.py",
        "            del self._row_of[request_id]\n",
        "",
        "speculation", "knowing",
    ),
    _mutant(
        "nothing-leaves", "the tokens of a step are judged at once", "engine/speculation.py",
        "first_B = np.where(drafted_B, np.minimum(counts_B, 1), counts_B)",
        "first_B = counts_B",
        "nothing_leaves", "drafts",
    ),
    _mutant(
        "isolated", "who has no adapter gets the last one", "engine/compat/v0_32.py",
        "torch.cat([stacked, torch.zeros_like(stacked[:1])])",
        "stacked",
        "adapters", "one_batch",
    ),
    _mutant(
        "streaming", "positions fed again are folded again", "engine/watches.py",
        "begins_B = np.maximum(starts_B, cursor_B)",
        "begins_B = starts_B",
        "fold", "over_preemption",
    ),
    _mutant(
        "streaming", "a prompt readout folds answers too", "engine/watches.py",
        "return np.zeros_like(prompt_R), prompt_R",
        "return np.zeros_like(prompt_R), np.full_like(prompt_R, 1 << 60)",
        "watches",
    ),
    # stall: no request holds up others
    Mutant(
        "bounded", "a body is read however long it is", "server/body.py",
        "refused = len(read) > most", "refused = False",
        ("tests/server/test_limits.py",), "is_bounded_however",
    ),
    Mutant(
        "bounded", "a body is parsed before it is counted", "server/body.py",
        "        _refuse_crowded(text, limits)\n", "",
        ("tests/server/test_limits.py",), "crowded",
    ),
    Mutant(
        "bounded", "what a body asks for is not counted", "server/body.py",
        "    refuse_oversize(body, limits)\n", "",
        ("tests/server/test_limits.py",), "one_above",
    ),
    Mutant(
        "bounded", "guides are not counted", "server/body.py",
        "    refuse_large_guides(body, limits)\n", "",
        ("tests/server/test_limits.py",), "one_above or guide",
    ),
    Mutant(
        "bounded", "only governed bodies are bounded", "server/gate.py",
        'if scope["method"] in BODILESS:', "if True:",
        ("tests/server/test_survival.py",), "every_door",
    ),
    Mutant(
        "bounded", "whoever asks is tokenized for", "server/routes.py",
        "return replace(verdict, needs_key=harmless.needs_key)", "return verdict",
        ("tests/server/test_routes.py",), "needs_a_key",
    ),
    Mutant(
        "bounded", "a field is parsed for who has no grant", "server/fields.py",
        "    _refuse_ungranted(raw, caller)\n", "",
        ("tests/server/test_limits.py",), "no_grant",
    ),
    Mutant(
        "bounded", "steering is compiled before it is counted", "engine/excess.py",
        "    refuse_cost(terms, plan.sources, plan.body.limits, origin=origin)\n", "",
        ("tests/server/test_limits.py",), "one_above",
    ),
    _mutant(
        "bounded", "a set of terms is compiled wherever it holds", "engine/request_programs.py",
        "if held not in self._known:", "if True:",
        "request_programs", "share",
    ),
    _mutant(
        "bounded", "each choice compiles its own programs", "engine/orders.py",
        "compiled = self._programs.get(known)", "compiled = None",
        "request_programs", "share",
    ),
    _mutant(
        "bounded", "a mark tells the workers everything anew", "engine/orders.py",
        "passenger.steering = _steering(passenger, unheard)",
        "passenger.steering = _steering(passenger)",
        "request_programs", "behind_it_alone",
    ),
    _mutant(
        "bounded", "a prompt is cut as often as its marks say", "engine/orders.py",
        "if sum(map(len, places)) > passenger.plan.body.limits.max_segments:", "if False:",
        "request_programs", "cut_too_often",
    ),
    _mutant(
        "bounded", "a block's key looks at all that lies before", "engine/timeline.py",
        'first = bisect_right(self.requested, position, key=attrgetter("stop"))', "first = 0",
        "timeline", "however_many",
    ),
    _mutant(
        "bounded", "compiled programs are kept for ever", "edit/program.py",
        "while self._bytes > self._max_bytes:", "while False:",
        "request_programs", "within_bytes",
    ),
    Mutant(
        "engine-survives", "an error quotes what cannot be sent", "server/answer.py",
        '"message": sendable(message)', '"message": message',
        ("tests/server/test_limits.py",), "quotes",
    ),
    Mutant(
        "engine-survives", "text that is no Unicode goes on", "server/body.py",
        "    encoded(body)\n    return body\n", "    return body\n",
        ("tests/server/test_limits.py",), "sent_on",
    ),
    Mutant(
        "never-silent", "a path may hold NUL", "config.py",
        'if "\\0" in text or text != sendable(text):', "if False:",
        ("tests/server/test_limits.py",), "nobody_writes",
    ),
    Mutant(
        "never-silent", "a file nested too deep ends in a traceback", "config.py",
        "except RecursionError as error:", "except ZeroDivisionError as error:",
        ("tests/server/test_limits.py",), "nobody_writes",
    ),
)  # fmt: skip
