"""The protections, each with the change that takes it out and the test that must then fail."""

from __future__ import annotations

from dataclasses import dataclass

ENGINE = "tests/engine"


@dataclass(frozen=True)
class Mutant:
    """Within `within`, `snippet` becomes `replacement`; `tests` must fail.

    `tests/mutants/source.py` says how the code is found.
    """

    invariant: str
    name: str
    within: str
    snippet: str
    replacement: str
    tests: tuple[str, ...]
    only: str = ""


def _mutant(
    invariant: str, name: str, within: str, snippet: str, replacement: str, test: str,
    only: str = "",
) -> Mutant:  # fmt: skip
    tests = (f"{ENGINE}/test_{test}.py",)
    return Mutant(invariant, name, within, snippet, replacement, tests, only)


MUTANTS: tuple[Mutant, ...] = (
    _mutant(
        "untouched", "an edit of nothing changes the last bits", "install_tap.call",
        "hidden_TD.float() + delta_TD",
        "hidden_TD.float() * (1 + 1e-6) + delta_TD",
        "untouched",
    ),
    _mutant(
        "isolated", "every token gets the first request's program", "SteeringState._write_requests",
        "np.repeat(rows_B, counts_B)",
        "np.full(int(counts_B.sum()), rows_B.max())",
        "isolated",
    ),
    _mutant(
        "isolated", "a policy's span spills over its neighbours", "SteeringState._write_policies",
        "max(span.start, start) - start + first",
        "0",
        "isolated",
    ),
    _mutant(
        "parity", "reads forget the deferred residual", "install_tap.call",
        "stream_TD + residual_TD",
        "stream_TD + 0 * residual_TD",
        "parity", "chunks and llama",
    ),
    _mutant(
        "parity", "the first output token counts as prompt", "SteeringState._write_requests",
        "positions_T[:, None] >= self._starts_RG[rows_T, 1:]",
        "positions_T[:, None] > self._starts_RG[rows_T, 1:]",
        "parity", "chunks and gpt2",
    ),
    _mutant(
        "parity", "a tap sits one block too low", "Instruments._install",
        "self._decoder.point(*place)",
        "self._decoder.point(max(place.layer - 1, 0), place.site)",
        "parity", "chunks and opt",
    ),
    _mutant(
        "parity", "projections do not see what maps wrote", "seen_RR",
        "reads_RD @ writes_RD.T",
        "0.0",
        "operator_parity", "eager",
    ),
    _mutant(
        "parity", "an adaptive turn turns every token", "plane_share",
        "share_TP2 = torch.where(open_TP1, share_TP2, torch.zeros_like(share_TP2))",
        "assert open_TP1.dtype is torch.bool",
        "operator_parity", "eager",
    ),
    _mutant(
        "parity", "a slerp goes all the way", "slerp",
        "(1.0 - share_T) * torch.atan2(across_T, along_T)",
        "0.0 * torch.atan2(across_T, along_T)",
        "operator_parity", "eager",
    ),
    _mutant(
        "parity", "a compiled tap reads what lay there before", "install_tap.call",
        "settled(hidden_TD)",
        "hidden_TD",
        "operator_parity", "compiled",
    ),
    _mutant(
        "isolated", "rows are of the first request's program", "_products",
        "reads_SRD[slot_T, r]",
        "reads_SRD[slot_T[:1], r]",
        "kernel",
    ),
    _mutant(
        "parity", "every code that is over zero counts as chosen", "encoded",
        "torch.where(is_on_TR, kept_TR.clamp_min(0.0), 0.0)",
        "torch.where(is_on_TR | ~is_on_TR, kept_TR.clamp_min(0.0), 0.0)",
        "features", "kernel_does and topk",
    ),
    _mutant(
        "parity", "what a normalised row writes is not undone", "Inside.back",
        "values_TR if self.back_TR is None else values_TR * self.back_TR",
        "values_TR",
        "features", "kernel_does and layer",
    ),
    _mutant(
        "isolated", "a code is of the first token's feature", "inside_of",
        "number_TR - first",
        "(number_TR - first)[:1].expand(stream_TD.shape[0], -1)",
        "features", "own_feature",
    ),
    _mutant(
        "parity", "an SAE of centred streams sees their mean", "inside_of",
        "statistic_TR is not None or any(each.facts.is_measured for each in latents)",
        "statistic_TR is not None",
        "features", "kernel_does and centred",
    ),
    _mutant(
        "parity", "many features are chosen where few would not be", "largest",
        "is_least_TM.cumsum(-1) <= left_T1",
        "is_least_TM.cumsum(-1) >= left_T1",
        "columns", "equal",
    ),
    _mutant(
        "parity", "a policy's code does not see its own feature", "_sees",
        "[(each.latent, each.feature) == (row.latent, row.feature) for each in rows]",
        "0.0",
        "policy_features", "last_word",
    ),
    _mutant(
        "untouched", "a slot keeps what it held", "upload",
        "table[slot].zero_",
        "table[slot].abs_",
        "kernel",
    ),
    _mutant(
        "cache-sound", "where an edit holds is not in the key", "Timeline.key",
        "(edit.stage, edit.digest, edit.coefficient.hex(),\n"
        "             max(edit.start, start) - start, min(edit.stop, stop) - start)",
        "(edit.stage, edit.digest, edit.coefficient.hex(),\n"
        "             0, 0)",
        "timeline",
    ),
    _mutant(
        "never-silent", "an operator without tables is taken", "unfit",
        "missing is not None",
        "missing == ''",
        "never_silent", "no_valid_seal",
    ),
    _mutant(
        "cache-sound", "edited blocks keep vLLM's own hash", "Guarded._board",
        "passenger.programs or self._plan.body.policy_targets",
        "False",
        "cache_sound", "plain_after_steered",
    ),
    _mutant(
        "cache-sound", "the strength is not in the key", "Timeline.key",
        "edit.coefficient.hex()",
        '""',
        "cache_sound", "another_program",
    ),
    _mutant(
        "cache-sound", "blocks after the last edited one are shared", "EditedBlockHasher._mix",
        "self._running is None",
        "key is None",
        "cache_identity",
    ),
    _mutant(
        "cache-sound", "policy steering is not in the key", "Orders.steer",
        "passenger.timeline.impose(self._plan.body.policy_targets[order.target].digest, span)",
        "pass",
        "cache_sound", "plain_turn_two",
    ),
    _mutant(
        "cached", "without room for rows prompts under a rule read the cache",
        "Guarded._watch",
        "request.skip_reading_prefix_cache = True",
        "request.skip_reading_prefix_cache = False",
        "cached_reads", "without_room",
    ),
    _mutant(
        "cached", "blocks that nobody read are taken", "CachedReads.bound",
        "hashes[block] not in self._store and not self._promises[hashes[block]]",
        "False",
        "cache_sound", "jailbreak",
    ),
    _mutant(
        "cached", "rows of blocks that are skipped are not folded", "Guarded.update_from_output",
        "skipped is not None",
        "False",
        "cached_reads", "choices_of_one_prompt",
    ),
    _mutant(
        "cached", "a block counts as computed though its step was not planned",
        "CachedReads.planned",
        "request_id not in request_ids",
        "False",
        "cached_reads", "not_planned",
    ),
    _mutant(
        "cached", "rows live on when the cache is reset", "Guarded.reset_prefix_cache",
        "self._cached_reads.clear()",
        "pass",
        "cached_reads", "gone_with_the_cache",
    ),
    _mutant(
        "cached", "a step of the cache's last life is kept", "CachedReads.take",
        "life == self.life",
        "True",
        "cached_reads", "nobody_has",
    ),
    _mutant(
        "cached", "rows that others wait for are lost when there is no room",
        "CachedReads._hand_out",
        "follower.pinned[block_hash] = rows_SE",
        "pass",
        "cached_reads", "aborted_still",
    ),
    _mutant(
        "cached", "what is missing is passed over", "CachedReads._skipped",
        "rows_SE is None and not member.sees_all",
        "rows_SE is None",
        "cached_reads", "nobody_has",
    ),
    _mutant(
        "cached", "who waits takes room for rows", "CachedReads.follow",
        "_Follower(request, sees_all)",
        "_Follower(request, sees_all, self._seat())",
        "cached_reads", "in_the_queue",
    ),
    _mutant(
        "cached", "a gap in an answer is not seen", "CachedReads._keep_singles",
        "is_full &= self._since_C[slots] <= starts + 1 - self._size",
        "pass",
        "cached_reads", "gap_keeps_none",
    ),
    _mutant(
        "never-silent", "no setting is refused", "refuse_settings",
        "refusal.applies(value)",
        "refusal.applies(None)",
        "never_silent", "refused_flag",
    ),
    _mutant(
        "never-silent", "any seal is good", "unseal",
        "hmac.compare_digest(mac, _mac(body, key))",
        "mac",
        "never_silent", "no_valid_seal",
    ),
    _mutant(
        "never-silent", "a seal of another plan is good", "Revisions.plan",
        "self._kept.get(revision)",
        "next(iter(self._kept.values()))",
        "never_silent", "no_valid_seal",
    ),
    _mutant(
        "reload-atomic", "a request's later tokens are steered by the newest plan",
        "Orders._place",
        "RequestPrograms(terms, passenger.plan)",
        "RequestPrograms(terms, self._plan)",
        "reload_atomic", "in_flight",
    ),
    _mutant(
        "reload-atomic", "a plan goes while requests run under it", "Revisions._retire",
        "kept.holders or kept.num_requests",
        "kept.holders",
        "revisions", "last_request",
    ),
    _mutant(
        "reload-atomic", "a plan goes while a process seals under it", "Revisions._retire",
        "kept.holders or kept.num_requests",
        "kept.num_requests",
        "revisions", "lags",
    ),
    _mutant(
        "reload-atomic", "the last of two reloads wins", "Revisions._activate",
        "self.newest.revision != base or revision not in self._kept",
        "revision not in self._kept",
        "revisions", "of_two",
    ),
    _mutant(
        "reload-atomic", "any plan can follow", "Revisions._read",
        "plan.installation != self.newest.installation",
        "not plan.installation",
        "revisions", "another_installation",
    ),
    _mutant(
        "never-silent", "a probe that differs is passed over", "_fixed_content",
        "had[name] != got[name]",
        "had[name] is None",
        "succession", "read_at_start",
    ),
    _mutant(
        "never-silent", "a vector without a tap is loaded", "running_edits",
        "lack is not None",
        "lack == ''",
        "succession", "without_a_tap",
    ),
    Mutant(
        "reload-atomic", "an edition goes while a request is under it", "Editions.unused",
        "revision != self.newest.plan.revision and not self._num_requests[revision]",
        "revision != self.newest.plan.revision",
        ("tests/server/test_edition.py",),
    ),
    _mutant(
        "never-silent", "a request waits for a slot for ever", "Orders._wait",
        "waited_ms > passenger.plan.body.limits.max_wait_ms",
        "waited_ms < 0",
        "never_silent", "waits_too_long",
    ),
    _mutant(
        "nothing-leaves", "tokens leave before they are scored", "Shaping._shape_one",
        "passenger.held is not None",
        "passenger.held is not None and output.finish_reason",
        "nothing_leaves", "sync and withholds_the_token",
    ),
    _mutant(
        "nothing-leaves", "a running streak leaves", "Governor._clear",
        "np.maximum(scored_C - kept_C, 0)",
        "scored_C",
        "nothing_leaves", "sync and three_tokens",
    ),
    _mutant(
        "nothing-leaves", "the token of the verdict's step leaves", "verdict_output",
        "EngineCoreOutput(\n"
        "        request_id=output.request_id,\n"
        "        new_token_ids=[],\n"
        "        finish_reason=STOP,\n"
        "        stop_reason=BLOCK_REASON,\n"
        "        trace_headers=output.trace_headers,\n"
        "    )",
        "EngineCoreOutput(\n"
        "        request_id=output.request_id,\n"
        "        new_token_ids=output.new_token_ids,\n"
        "        finish_reason=STOP,\n"
        "        stop_reason=BLOCK_REASON,\n"
        "        trace_headers=output.trace_headers,\n"
        "    )",
        "nothing_leaves", "sync and withholds_the_token",
    ),
    _mutant(
        "nothing-leaves", "held tokens leave with the verdict", "Governor._conclude",
        "max(0, min(cleared, self.scored(watched) - 1))",
        "self.scored(watched)",
        "nothing_leaves", "sync and three_tokens",
    ),
    _mutant(
        "nothing-leaves", "the last token is never fed", "Guarded._watch",
        "request.max_tokens += 1",
        "request.max_tokens += 0",
        "nothing_leaves", "sync and length_end_gives",
    ),
    _mutant(
        "nothing-leaves", "a score that is missing passes for harmless", "Governor._evaluate",
        "missing_BR &= active_BR",
        "missing_BR[:] = False",
        "nothing_leaves", "sync and overflows_blocks",
    ),
    _mutant(
        "nothing-leaves", "the visible limit is not kept", "HoldBack.release",
        "min(up_to, self.visible_limit)",
        "up_to",
        "holdback",
    ),
    _mutant(
        "nothing-leaves", "an uncleared token is exchanged", "HoldBack.exchange",
        "min(up_to, self.visible_limit) != self.released + 1 or held.logprobs is "
        "not None",
        "held.logprobs is not None",
        "nothing_leaves", "sync and three_tokens",
    ),
    _mutant(
        "engine-survives", "a broken seal kills the scheduler", "Guarded._board",
        'return Passenger.refused("seal", self._revisions.newest, decision_id)',
        "raise",
        "never_silent", "no_valid_seal",
    ),
    _mutant(
        "engine-survives", "scores of ended requests are kept", "Guarded._leave",
        "self._governor.close(request_id)",
        "pass",
        "engine_survives",
    ),
    _mutant(
        "engine-survives", "slots of ended requests are kept", "Orders.release",
        "self._slots.release({each.digest for each in passenger.programs})",
        "pass",
        "engine_survives",
    ),
    _mutant(
        "engine-survives", "an edit that overflows is taken", "overflow_problem",
        "not largest < LARGEST_EDIT",
        "largest < 0",
        "engine_survives",
    ),
    _mutant(
        "fully-scored", "cached tokens are not counted", "Watches._fresh",
        "self.unscored_C[rows_B] += np.maximum(starts_B - cursor_B, 0)",
        "pass",
        "cache_sound", "shadow_reads",
    ),
    _mutant(
        "fully-scored", "what earlier stages read stays there", "relay_reads.receive",
        "scores_NE[: scores_TE.shape[0]].copy_(scores_TE)",
        "pass",
        "parallel", "stages",
    ),
    _mutant(
        "streaming", "rejected drafts are folded", "settled",
        "np.minimum(counts_B, kept_B)",
        "counts_B",
        "speculation", "knowing",
    ),
    _mutant(
        "streaming", "tokens accepted behind a verdict are folded", "Governor._conclude",
        "del self._row_of[request_id]",
        "pass",
        "speculation", "knowing",
    ),
    _mutant(
        "nothing-leaves", "the tokens of a step are judged at once", "waves",
        "np.where(drafted_B, np.minimum(counts_B, 1), counts_B)",
        "counts_B",
        "nothing_leaves", "drafts",
    ),
    _mutant(
        "isolated", "who has no adapter gets the last one", "_with_zeros",
        "torch.cat([stacked, torch.zeros_like(stacked[:1])])",
        "stacked",
        "adapters", "one_batch",
    ),
    _mutant(
        "streaming", "positions fed again are folded again", "Watches._fresh",
        "np.maximum(starts_B, cursor_B)",
        "starts_B",
        "fold", "over_preemption",
    ),
    _mutant(
        "streaming", "a prompt readout folds answers too", "scope_bounds",
        "np.zeros_like(prompt_R), prompt_R",
        "np.zeros_like(prompt_R), np.full_like(prompt_R, 1 << 60)",
        "watches",
    ),
    # ops: the log, and the plan behind its digest
    Mutant(
        "never-printed", "the plan's text is the plan", "OpaquePlan.__new__",
        "hashlib.sha256(told).hexdigest",
        "told.decode",
        ("tests/engine/test_opaque_plan.py",),
    ),
    Mutant(
        "never-printed", "a copied plan is its digest alone", "OpaquePlan.__reduce__",
        "type(self), (self.wire,)",
        "str, (str(self),)",
        ("tests/engine/test_opaque_plan.py",),
    ),
    Mutant(
        "never-printed", "two plans share a compile cache", "PRINTED",
        '("body", "tensors")',
        '("body",)',
        ("tests/engine/test_opaque_plan.py",), "compile_caches",
    ),
    Mutant(
        "never-printed", "a dumped step shows its uploads", "Upload",
        "layers: Mapping[Tap, LayerEdit] = field(repr=False)",
        "layers: Mapping[Tap, LayerEdit]",
        ("tests/engine/test_opaque_plan.py",), "dumps",
    ),
    Mutant(
        "own-lines", "words of others are printed as they are", "log_text",
        "ascii(told[:MOST_CHARACTERS])",
        "told[:MOST_CHARACTERS]",
        ("tests/test_log_text.py",),
    ),
    Mutant(
        "own-lines", "a longer text begins lines of the log", "log_lines",
        "INDENT.join",
        "\"\\n\".join",
        ("tests/test_log_text.py",),
    ),
    Mutant(
        "own-lines", "a path is logged as it came", "answer_denied",
        'logger.warning("denied %s %s", log_text(method), log_text(path))',
        'logger.warning("denied %s %s", log_text(method), path)',
        ("tests/test_log_text.py",),
    ),
    Mutant(
        "own-lines", "lines of ours go past vLLM's logger", "log_with_vllm",
        'logging.getLogger("vllm")',
        "logging.getLogger()",
        ("tests/telemetry/test_logs.py",),
    ),
    Mutant(
        "own-lines", "a configuration silences lines of ours", "log_with_vllm",
        "logging.getLogger(name).disabled = False",
        "logging.getLogger(name)",
        ("tests/telemetry/test_logs.py",), "disables",
    ),
    Mutant(
        "own-lines", "an address in a header is logged as it came", "_Escaped.filter",
        "unprintable_escaped(each, MOST_CHARACTERS) if isinstance(each, str) else "
        "each",
        "each",
        ("tests/telemetry/test_logs.py",),
    ),
    Mutant(
        "own-lines", "any request id passes", "_refuse",
        "wrong is not None",
        "wrong is not None and False",
        ("tests/server/test_request_id.py",),
    ),
    Mutant(
        "own-lines", "the header of a request id is not looked at", "Gate._http",
        "refuse_request_id_header(scope)",
        "pass",
        ("tests/server/test_server_log.py",), "writes_no_line",
    ),
    Mutant(
        "own-lines", "the field of a request id is not looked at", "Admission.admit",
        "refuse_request_id_field(body)",
        "pass",
        ("tests/server/test_server_log.py",), "writes_no_line",
    ),
    Mutant(
        "own-lines", "every API process says what runs", "EndpointPlugin.init_state",
        "client_index(engine_client) == 0",
        "client_index(engine_client) >= 0",
        ("tests/telemetry/test_metrics_http.py",), "two_api",
    ),
    # disk
    _mutant(
        "cache-sound", "of two rules on one vector the later wins", "_stronger",
        "min(one, other, key=lambda span: (-abs(span.coefficient), span.rank))",
        "other",
        "policy_steering", "two_then_one",
    ),
    _mutant(
        "cache-sound", "of two equal strengths the one that began wins", "_stronger",
        "(-abs(span.coefficient), span.rank)",
        "-abs(span.coefficient)",
        "policy_spans",
    ),
    _mutant(
        "engine-survives", "a rule at the last token is kept for ever", "SteeringState.apply",
        "span.request_id in ended",
        "span.request_id is None",
        "steering_state", "last_token",
    ),
    _mutant(
        "never-silent", "a token that two steer counts twice", "Passenger._steered_tokens",
        "merged(each)",
        "each",
        "policy_steering", "counts_once",
    ),
    Mutant(
        "never-silent", "a link to a policy's folder is left out", "_Walk._named_entry",
        "self._links.append((path, status))",
        "pass",
        ("tests/policy/test_discovery.py",),
    ),
    Mutant(
        "never-silent", "what a mount keeps for itself is read", "_Walk._folder",
        "[name for name in names if not MOUNTED.fullmatch(name)]",
        "list(names)",
        ("tests/policy/test_discovery.py",), "mount or swap",
    ),
    Mutant(
        "never-silent", "a policy under another name is left out", "_Walk._refuse_a_policy",
        "says.search(text)",
        "not text",
        ("tests/policy/test_discovery.py",),
    ),
    Mutant(
        "never-silent", "a link that leads nowhere is left out", "_Walk._named_entry",
        "path.name.startswith(EDITORS_LOCK)",
        "path.name",
        ("tests/policy/test_discovery.py",),
    ),
    Mutant(
        "never-silent", "a mounted name without a link is left out", "_Walk._check_mount",
        "name not in names",
        "name is None",
        ("tests/policy/test_discovery.py",),
    ),
    Mutant(
        "engine-survives", "a pipe is waited for", "_text_of",
        "not stat.S_ISREG(status.st_mode)",
        "stat.S_ISDIR(status.st_mode)",
        ("tests/policy/test_discovery.py",), "pipe or mail",
    ),
    Mutant(
        "never-silent", "a link out of its folder is followed", "followed",
        "real.is_relative_to(folder) or real.parent == _blobs(folder)",
        "real",
        ("tests/model/test_links.py",),
    ),
    Mutant(
        "never-silent", "any folder called snapshots has blobs", "_blobs",
        'each.parent.name == "snapshots" and REPOSITORY.fullmatch(repository.name)',
        'each.parent.name == "snapshots"',
        ("tests/model/test_links.py",),
    ),
    Mutant(
        "never-silent", "an SAE under a second name is another", "_compiled",
        "features.setdefault(source.digest, []).append(share)",
        "features.setdefault(str(id(source)), []).append(share); "
        "saes[str(id(source))] = source",
        ("tests/edit/test_feature.py",), "two_names",
    ),
    # formats
    Mutant(
        "never-silent", "k among the activation's arguments is not looked for",
        "_k",
        'fields.group("activation_fn_kwargs").raw.get("k")', "None",
        ("tests/model/sae/test_saelens_versions.py",), "stood_among",
    ),
    Mutant(
        "never-silent", "a single head by its older name is taken", "_about",
        '("hook_head_index", "hook_point_head_index")',
        '("hook_head_index",)',
        ("tests/model/sae/test_saelens_versions.py",), "single_head",
    ),
    Mutant(
        "never-silent", "a checkpoint's norms are not folded", "_as_served",
        "_fold_norms(place, tensors)", "pass",
        ("tests/model/sae/test_saelens_versions.py",), "folded",
    ),
    Mutant(
        "never-silent", "what only a table says of a release is passed over",
        "centring_of",
        "release_told_by(fields.raw)", "None",
        ("tests/model/sae/test_centring.py",), "under_any_name",
    ),
    Mutant(
        "never-silent", "an open question of centring is not told", "centring_of",
        "Centring(False, () if is_rms or _is_later(fields) else (OPEN,))",
        "Centring(False)",
        ("tests/model/sae/test_centring.py",), "does_not_say_it",
    ),
    Mutant(
        "never-silent", "a note of an SAE stays unlogged", "open_sae",
        "sae.digest not in _OPEN", "False",
        ("tests/model/sae/test_centring.py",), "logs",
    ),
    Mutant(
        "never-silent", "towers count as the language model", "module_tap",
        "_BLOCK.fullmatch", "_BLOCK.search",
        ("tests/model/test_module_path.py",), "other_modules",
    ),
    Mutant(
        "never-silent", "another model's control vector is taken", "check_target",
        "hint and known and not any(is_same_architecture(hint, each) for each in "
        "known)", "False and not any(is_same_architecture(hint, each) for each in known)",
        ("tests/model/formats/test_model_types.py",), "mismatch",
    ),
    Mutant(
        "never-silent", "an intervention on a head lands on the stream",
        "_place_of", 'unit not in (None, "pos")', "False",
        ("tests/model/formats/test_loreft_names.py",), "no_site",
    ),
    Mutant(
        "never-silent", "a mark in front is part of the first name", "decoded",
        '"utf-8-sig"', '"utf-8"',
        ("tests/training/test_row_file.py",), "mark_in_front",
    ),
    Mutant(
        "never-silent", "cells under no name are dropped", "_row",
        "len(row) != len(names) or extra", "len(row) != len(names)",
        ("tests/training/test_row_file.py",), "under_no_name",
    ),
    Mutant(
        "never-silent", "variables that no template reads are dropped",
        "check_template_kwargs", "if unread: ...", "if False: ...",
        ("tests/training/test_tokenized.py",), "no_template_reads",
    ),
    Mutant(
        "never-silent", "a prompt that begins twice is not told", "begins_twice",
        "list(tokenizer.encode(text))[:2] == [bos_id, bos_id]", "False",
        ("tests/training/test_tokenized.py",), "begins_twice",
    ),
    Mutant(
        "never-silent", "long work is not told of without a terminal", "_lines.tell",
        "to.write(f\"{now[-1]}\\n\")", "pass",
        ("tests/test_progress.py",), "takes_long",
    ),
    # doors: text of the client's in the assistant's place
    Mutant(
        "authored", "an answer that the client began is the model's", "supplied_text",
        'fields.roles and fields.roles[-1] == "assistant"', "False",
        ("tests/server/test_client_text.py",), "at_the_end",
    ),
    Mutant(
        "authored", "parts of a begun answer are not read", "_texts",
        "isinstance(value, list)", "False",
        ("tests/server/test_client_text.py",), "wherever_a_message",
    ),
    Mutant(
        "authored", "what a grammar writes is the model's", "chooses_tokens",
        'read.get("structured_outputs") is not None', "False",
        ("tests/server/test_client_text.py",), "constraint",
    ),
    Mutant(
        "authored", "a verdict on the client's text changes nothing", "rescored",
        "entry.prompt_verdicts[prompt] = verdict", "pass",
        ("tests/server/doors/test_doors.py",), "closed",
    ),
    Mutant(
        "read-alike", "a choice without an account is as good as any", "Settler.settle",
        "log is None and admitted.exposure.ends", "False",
        ("tests/server/test_unaccounted.py",),
    ),
    # identity: the peer on the wire
    Mutant(
        "identity", "an API key is left to how vLLM reads a path", "Gate._governed",
        "send_json(send, 401, UNAUTHORIZED)",
        "self._app(scope, receive, send)",
        ("tests/server/test_not_served.py",), "shows_no_key",
    ),
    Mutant(
        "never-silent", "a root path that vLLM cannot route is taken", "REFUSALS",
        'v.endswith("/")',
        "False",
        ("tests/engine/test_refusals_page.py",), "root_path",
    ),
    Mutant(
        "never-silent", "a proxy that is not on the list is not told of",
        "Doorkeeper._tell_ignored",
        "self._told.add(address)",
        "return",
        ("tests/server/test_identity.py",), "in_vain",
    ),
    Mutant(
        "identity", "uvicorn takes the peer from a header", "refuse_forwarding",
        'os.environ[FORWARDING_VARIABLE] = ""',
        "os.environ.pop(FORWARDING_VARIABLE, None)",
        ("tests/server/test_peer.py",), "no_header_chooses",
    ),
    Mutant(
        "identity", "another trust of uvicorn's is taken", "refuse_forwarding",
        "if asked: ...",
        "if False: ...",
        ("tests/server/test_peer.py",), "another_trust",
    ),
    Mutant(
        "identity", "an API process does not look whether peers are rewritten",
        "check_forwarding_is_off",
        'found != ""',
        "False",
        ("tests/server/test_peer.py",), "api_process",
    ),
    Mutant(
        "identity", "a mapped address is no IPv4 one", "unmapped",
        "inner or address",
        "address",
        ("tests/server/test_peer.py",), "dual_stack",
    ),
    Mutant(
        "identity", "a connection that was reset came over a Unix socket", "peer_of",
        "server is not None and server[1] is None",
        "True",
        ("tests/server/test_peer.py",), "who_counts",
    ),
    Mutant(
        "identity", "an address in a client's own network draws its rollout anew",
        "Peer.rollout_key",
        "IPV6_SUBNET_BITS",
        "128",
        ("tests/server/test_peer.py",), "rollout",
    ),
    Mutant(
        "identity", "a proxy that passes its client's host on is a caller here", "passed_on",
        "not _names_this_machine(host)",
        "False",
        ("tests/server/test_peer.py",), "another_host",
    ),
    Mutant(
        "identity", "a proxy that asks in HTTP/1.0 is a caller here", "passed_on",
        'scope.get("http_version") == "1.0"',
        "False",
        ("tests/server/test_peer.py",), "nginx",
    ),
    Mutant(
        "identity", "anybody names a tenant", "Doorkeeper.caller",
        "self._tenant(headers) if proxy else NO_TENANT",
        "self._tenant(headers)",
        ("tests/server/test_identity.py",), "only_a_trusted",
    ),
    Mutant(
        "identity", "a tenant that a client added to is taken", "Doorkeeper._tenant",
        "len(named) > 1 or not fine",
        "not fine",
        ("tests/server/test_identity.py",), "added_to",
    ),
    Mutant(
        "identity", "who listens beyond this machine needs no key",
        "Doorkeeper.refused_as_operator",
        "not self._is_private",
        "False",
        ("tests/server/test_identity.py",), "operator",
    ),
    Mutant(
        "identity", "a trusted proxy on this machine is the operator",
        "Doorkeeper.refused_as_operator",
        "trusts(self._auth, peer)",
        "False",
        ("tests/server/test_identity.py",), "operator",
    ),
    Mutant(
        "identity", "what was passed on is the operator's", "Doorkeeper.refused_as_operator",
        "sign is not None",
        "False",
        ("tests/server/test_identity.py",), "operator",
    ),
    Mutant(
        "identity", "the demo grants to what was passed on", "Doorkeeper.caller",
        "peer.on_this_machine and not proxy and passed_on(scope) is None",
        "peer.on_this_machine",
        ("tests/server/test_identity.py",), "demo_grants",
    ),
    Mutant(
        "identity", "every Unix peer is a trusted proxy", "trusts",
        "UNIX_PEERS in auth.trusted_proxies.cidrs",
        "True",
        ("tests/server/test_identity.py",), "unix_socket or operator",
    ),
    Mutant(
        "never-silent", "proxies that no peer can be are taken", "check_auth",
        "networks and not any(listening.can_reach(each) for each in networks)",
        "False",
        ("tests/server/test_listening.py",), "no_peer_can_be",
    ),
    Mutant(
        "never-silent", "networks are taken where peers have no address", "check_auth",
        "listening.unix and cidrs and UNIX_PEERS not in cidrs",
        "False",
        ("tests/server/test_listening.py",), "no_peer_can_be",
    ),
    Mutant(
        "never-silent", "a network that mapped peers are never in is taken", "_network",
        "inside is not None and network.prefixlen >= 96",
        "False",
        ("tests/server/test_listening.py",), "refused_with_the_file",
    ),
    Mutant(
        "never-silent", "a tenant header that the gate drops is taken", "_header",
        "given.lower().startswith(OWN_HEADERS)",
        "False",
        ("tests/server/test_listening.py",), "refused_with_the_file",
    ),
    Mutant(
        "identity", "every address is a private one", "listening_of",
        "address.is_loopback",
        "True",
        ("tests/server/test_listening.py",), "private",
    ),
    Mutant(
        "every-door", "a redirect leads to what is denied", "moved_to",
        "table.judge(scope[\"method\"], get_route_path(other)).kind == \"denied\" or "
        "not routed(other)",
        "not routed(other)",
        ("tests/server/test_not_served.py",), "nobody_is_sent",
    ),
    Mutant(
        "every-door", "what vLLM would route is as unknown as anything", "answer_denied",
        "path not in DENIED and not routed(scope)",
        "path not in DENIED",
        ("tests/server/test_not_served.py",), "somewhere_unknown",
    ),
    Mutant(
        "never-silent", "websockets are not counted", "Gate.__call__",
        'state.metrics.request(None, OTHER_ENDPOINT, "", "deny")',
        "pass",
        ("tests/server/test_not_served.py",), "websocket",
    ),
    Mutant(
        "never-silent", "other methods of governed routes are not counted",
        "Gate._ungoverned_method",
        'state.metrics.request(None, endpoint.name, "", client.outcome_or(outcome))',
        "pass",
        ("tests/server/test_not_served.py",), "counted_once",
    ),
    Mutant(
        "never-silent", "a client that went away is an error", "Disconnect.outcome_or",
        '"abort" if self._gone else outcome',
        "outcome",
        ("tests/server/test_disconnect.py",), "has_gone",
    ),
    Mutant(
        "never-silent", "the gauge of programs stays up", "Guarded.update_from_output",
        "self._tell_programs()",
        "pass",
        ("tests/telemetry/test_metrics_http.py",), "gauge_of_programs",
    ),
    # constraints that write a text, and text behind what they write
    Mutant(
        "authored", "a tail behind a forced answer hides it", "forced_texts",
        "(*_alone_and_together(answer, before), *ended)",
        "_alone_and_together(answer, before)",
        ("tests/server/test_client_text.py",), "could_have_ended",
    ),
    Mutant(
        "authored", "words without an end are never cut", "prefixes",
        "num_words == MAX_WORDS", "False",
        ("tests/server/test_prefixes.py",), "without_an_end",
    ),
    Mutant(
        "authored", "what many bans leave is the model's", "chooses_tokens",
        'len(biases) + len(read.get("bad_words") or ()) > MAX_BANS', "False",
        ("tests/server/test_client_text.py",), "constraint",
    ),
    Mutant(
        "authored", "a strict tool's arguments are the model's", "chooses_tokens",
        'has_strict_tool or read.get("parallel_tool_calls") is False',
        'read.get("parallel_tool_calls") is False',
        ("tests/server/test_client_text.py",), "constraint",
    ),
    Mutant(
        "authored", "the server's own grammar of tools is not heeded", "is_constrained",
        "fields.constrained or (pins_tools and fields.may_call)", "fields.constrained",
        ("tests/server/test_client_text.py",), "grammar_of_them",
    ),
    Mutant(
        "nothing-leaves", "what a bias kept from being said is shown beside it",
        "_asks_alternatives",
        "bool(fields.num_logprobs) and fields.vllm is not None and "
        "leans_on_tokens(fields)",
        "False",
        ("tests/server/test_admission.py",), "passed_by",
    ),
    Mutant(
        "nothing-leaves", "a client asks how likely a barred token is", "_asks_of_tokens",
        "fields.vllm is not None and "
        'bool(fields.vllm.__dict__.get("logprob_token_ids"))',
        "False",
        ("tests/server/test_admission.py",), "passed_by",
    ),
    # lint: doors that stay open, what the gate reads, and text that no model chose
    Mutant(
        "authored", "an endpoint left out is no door", "outside_the_scope",
        "if missing: ...", "if False: ...",
        ("tests/policy/test_open_doors.py",), "scope_that_callers",
    ),
    Mutant(
        "authored", "a policy in shadow closes doors", "ending_rules",
        'policy.spec.mode == "enforce" and policy.spec.rollout_percent > 0',
        "policy.spec.rollout_percent > 0",
        ("tests/policy/test_open_doors.py",), "shadow or ends_nothing",
    ),
    Mutant(
        "authored", "a rule for some callers closes doors for all", "EndingRules.stands_in",
        "other.policy.spec.rollout_percent == 100", "True",
        ("tests/policy/test_open_doors.py",), "in_shadow_or_for_some",
    ),
    Mutant(
        "authored", "proxies that are everyone are trusted", "_is_everyone",
        "ipaddress.ip_network(cidr).prefixlen == 0", "ipaddress.ip_network(cidr).prefixlen < 0",
        ("tests/policy/test_open_doors.py",), "scope_that_callers",
    ),
    Mutant(
        "authored", "scores that clients see are no door", "_grants",
        "auth is not None and auth.client_scores", "False",
        ("tests/policy/test_open_doors.py",), "scores_that_clients or grant_of_the_server",
    ),
    Mutant(
        "authored", "steering behind the verdict is no door", "_grants",
        "steered and not house.has_output_half(mine)", "False",
        ("tests/policy/test_open_doors.py",), "behind_the_prompt",
    ),
    Mutant(
        "authored", "any rule over answers is the other half", "EndingRules.has_output_half",
        "other.policy.metadata.category == mine.policy.metadata.category", "True",
        ("tests/policy/test_open_doors.py",), "says_of_itself",
    ),
    Mutant(
        "authored", "a late look at the prompt counts as one in time", "_readouts",
        "phase != \"prompt\" and reads_prompt and not house.same_in_phase(mine, "
        '"prompt")', 'False and not house.same_in_phase(mine, "prompt")',
        ("tests/policy/test_open_doors.py",), "later_phase",
    ),
    Mutant(
        "authored", "a rule that something high switches off is told of by nobody",
        "_lowered_by", "_lowered_by(node.operand, not wanted)",
        "_lowered_by(node.operand, wanted)",
        ("tests/policy/test_open_doors.py",), "keeps_from_firing",
    ),
    Mutant(
        "never-silent", "lint tells of no door", "_open_doors",
        "open_doors(policies, specs, around)", "()",
        ("tests/policy/test_open_doors.py",), "lint",
    ),
    Mutant(
        "never-silent", "doctor takes every model to have a template", "has_chat_template",
        'getattr(tokenizer, "chat_template", None) is not None', "True",
        ("tests/cli/test_main.py",), "doctor_knows_from_the_model",
    ),
    Mutant(
        "authored", "a chat cut off may open no turn", "supplied_text",
        "fields.truncated or not fields.add_generation_prompt",
        "not fields.add_generation_prompt",
        ("tests/server/test_client_text.py",), "may_not_be_open",
    ),
    Mutant(
        "authored", "a chat without a generation prompt may open no turn", "supplied_text",
        "fields.truncated or not fields.add_generation_prompt", "fields.truncated",
        ("tests/server/test_client_text.py",), "may_not_be_open",
    ),
    Mutant(
        "authored", "a sentence cut in two is read in halves", "_alone_and_together",
        'f"{before} {text}"', "text",
        ("tests/server/test_client_text.py",), "forced_answer or at_the_end",
    ),
    Mutant(
        "authored", "a schema leaves the words to the model", "has_literal_shape",
        "shape is not None and shape.type in _LITERAL_FORMATS", "False",
        ("tests/server/test_client_text.py",), "constraint",
    ),
    Mutant(
        "authored", "a forced tool leaves the words to the model", "chooses_tokens",
        'tool is not None and tool not in ("none", "auto")', "False",
        ("tests/server/test_client_text.py",), "constraint",
    ),
    Mutant(
        "authored", "a list of tokens leaves the words to the model", "chooses_tokens",
        'read.get("allowed_token_ids")', "False",
        ("tests/server/test_client_text.py",), "constraint",
    ),
    Mutant(
        "authored", "what a forced call says is not read", "choice_text",
        'texts += [function.get("name"), function.get("arguments")]', "pass",
        ("tests/server/test_client_text.py",), "choice_says",
    ),
    Mutant(
        "authored", "a client's text that cannot be scored passes", "Rescorer._unscored",
        "self._admission.unscored_verdict(policies)", "None",
        ("tests/server/test_rescoring.py",), "cannot_be_scored",
    ),
    Mutant(
        "authored", "an answer nobody told of counts as scored", "Rescorer._scored",
        "status != 200 or not entry.choices",
        "status != 200",
        ("tests/server/test_rescoring.py",), "cannot_be_scored",
    ),
    Mutant(
        "authored", "a verdict on a forced answer changes nothing", "ForcedAnswer.body",
        "self._entry.impose(key, verdict)", "pass",
        ("tests/server/test_rescoring.py",), "constrained",
    ),
    Mutant(
        "authored", "a forced answer is scored by its last part", "ForcedAnswer.body",
        'self._said.get(each.index, "") + each.text', "each.text",
        ("tests/server/test_rescoring.py",), "streamed",
    ),
    Mutant(
        "authored", "a forced answer leaves before its verdict", "rescored",
        "replace(exposure, buffers=True)", "exposure",
        ("tests/server/test_rescoring.py",), "constrained or several_prompts",
    ),
    Mutant(
        "authored", "a policy that scores answers scores none", "rescored",
        "exposure.scores_answers",
        "()",
        ("tests/server/test_rescoring.py",), "scores_answers",
    ),
    Mutant(
        "authored", "every policy scores answers", "Rescorer.verdict",
        "self.admitted.exposure.applied if policies is None else policies",
        "self.admitted.exposure.applied",
        ("tests/server/test_rescoring.py",), "scores_answers",
    ),
    Mutant(
        "never-silent", "answers that nobody can score start a server", "refuse_scored_answers",
        "if asking: ...", "if False: ...",
        ("tests/server/test_rescoring.py",), "stop_the_start",
    ),
    Mutant(
        "never-silent", "scored answers in shadow are taken", "_spec",
        'if spec.mode == "shadow": ...', "if False: ...",
        ("tests/policy/test_loader.py",), "malformed",
    ),
    Mutant(
        "authored", "one barred prompt blocks its neighbours", "rescored",
        "len(entry.prompt_verdicts) == admitted.num_prompts",
        "bool(entry.prompt_verdicts)",
        ("tests/server/test_rescoring.py",), "several_prompts or put_into_words",
    ),
    Mutant(
        "authored", "our own request carries the client's headers", "call",
        "each[0] in kept",
        'each[0] != b"content-length"',
        ("tests/server/test_rescoring.py",), "clients_key",
    ),
    Mutant(
        "authored", "a choice told of later goes free", "Entry.add",
        "self.prompt_verdicts.get(record.choice[0])", "None",
        ("tests/server/test_rescoring.py",), "several_prompts",
    ),
    Mutant(
        "read-alike", "the body goes on as it came", "Completions.read",
        "write_back(body, asked)", "pass",
        ("tests/server/test_request_schema.py",), "sent_on",
    ),
    Mutant(
        "read-alike", "choices are counted as they are written", "choice_fields",
        "n if n is not None and n > 0 else 1", "1",
        ("tests/server/test_request_schema.py", "tests/server/test_admission.py"),
        "reads_every_field or bound_on_choices",
    ),
    Mutant(
        "read-alike", "an echo asks for no logprobs", "prompt_logprobs",
        'echoed if asked is None and read["echo"] else asked', "asked",
        ("tests/server/test_request_schema.py",), "by_itself or reads_every_field",
    ),
    Mutant(
        "read-alike", "prompts of a list are one", "_num_prompts",
        "len(prompt_to_seq(prompt))",
        "1",
        ("tests/server/test_request_schema.py",), "counted",
    ),
    Mutant(
        "read-alike", "a value that trips vLLM up is a fault of ours", "validated",
        "unexplained(error)",
        "ValueError(str(error))",
        ("tests/server/test_request_schema.py",), "trips_over",
    ),
    Mutant(
        "read-alike", "an empty template is one", "EMPTY_MEANS_NONE",
        '("chat_template", "prompt_embeds")',
        "()",
        ("tests/server/test_request_schema.py",), "sent_on",
    ),
    Mutant(
        "read-alike", "transfers among the arguments pass", "_refuse_xargs",
        "name in TRANSFER_KEYS and value", "False",
        ("tests/server/test_admission.py",), "reads_as_on",
    ),
    Mutant(
        "read-alike", "a refusal that comes back is an empty turn", "say_refusals",
        'message["content"] = text', "pass",
        ("tests/server/test_request_schema.py",), "history",
    ),
    Mutant(
        "read-alike", "another number of choices is as good as any", "ChoiceEndpoint.rewrite",
        "admitted.exposure.ends",
        "False",
        ("tests/server/test_unaccounted.py",), "another_number",
    ),
    Mutant(
        "read-alike", "one streamed choice too many says what it likes", "ChoiceStream._accounted",
        "self._lost or key not in self._entry.choices", "False",
        ("tests/server/test_unaccounted.py",), "streamed",
    ),
    Mutant(
        "read-alike", "a record of no choice is an account", "Entry.add",
        "record.choice is None", "False",
        ("tests/server/test_unaccounted.py",), "nobodys_account",
    ),
    Mutant(
        "read-alike", "an encoded answer leaves unread", "is_encoded",
        'Headers(raw=list(headers)).get("content-encoding", "identity") != "identity"', "False",
        ("tests/server/test_unaccounted.py",), "encoded_unasked",
    ),
    Mutant(
        "read-alike", "a client's wish for compression goes on", "plainly",
        '[each for each in scope["headers"] if each[0] != b"accept-encoding"]',
        '[each for each in scope["headers"]]',
        ("tests/server/test_early_end.py",), "compresses",
    ),
    Mutant(
        "read-alike", "any content type is read", "_refuse_other_content",
        "kind != JSON", "False",
        ("tests/server/test_early_end.py",), "content_type",
    ),
    Mutant(
        "read-alike", "chunks of ours lack the usage of vLLM's", "ChoiceStream._ending",
        "self._tells_usage", "False",
        ("tests/server/test_early_end.py",), "chunks_of_ours",
    ),
    Mutant(
        "never-silent", "a vLLM that differs from what is relied on is taken", "check",
        "if problems: ...",
        "if False: ...",
        ("tests/engine/vllm/test_check.py",), "stops_the_scheduler",
    ),
    Mutant(
        "never-silent", "vLLM may call what replaces its own with more", "_misfits",
        "not is_replaced or got.names <= wanted.names",
        "True",
        ("tests/engine/vllm/test_comparison.py",), "ours_would_not_take",
    ),
    Mutant(
        "never-silent", "what is not there counts as there", "Imported.member",
        "Imported(None) if is_given else None",
        "Imported(None)",
        ("tests/engine/vllm/test_comparison.py",), "member_that_has_gone",
    ),
    Mutant(
        "never-silent", "what vLLM resolves is not looked at", "refuse_resolved",
        "resolved_value(config, path) if path else None",
        "None",
        ("tests/engine/test_never_silent.py",), "wherever_it_came_from",
    ),
    Mutant(
        "never-silent", "a pair that was resolved is not looked at", "refuse_resolved",
        "problems += _untested_together({name for name, used in kinds.items() if "
        "used})", "pass",
        ("tests/engine/test_never_silent.py",), "pair_is_refused_wherever",
    ),
    Mutant(
        "never-silent", "routed experts under another flag pass", "REFUSALS",
        'bool(_within(v, "enable_return_routed_experts"))', "False",
        ("tests/engine/test_never_silent.py",), "however_it_is_written or stops_the_start",
    ),
    Mutant(
        "never-printed", "an offline engine prints its plan", "OpaquePlan.__new__",
        "hashlib.sha256(told).hexdigest", "told.decode",
        ("tests/engine/test_plan_stays_hidden.py",), "steered_and_captured",
    ),
    # stall: no request holds up others
    Mutant(
        "bounded", "a body is read however long it is", "read_body",
        "len(read) > most", "False",
        ("tests/server/test_limits.py",), "is_bounded_however",
    ),
    Mutant(
        "bounded", "a body is parsed before it is counted", "parsed",
        "_refuse_crowded(text, limits)", "pass",
        ("tests/server/test_limits.py",), "crowded",
    ),
    Mutant(
        "bounded", "what a body asks for is not counted", "parsed",
        "refuse_oversize(body, limits)", "pass",
        ("tests/server/test_limits.py",), "one_above",
    ),
    Mutant(
        "bounded", "guides are not counted", "refuse_oversize",
        "refuse_large_guides(body, limits)", "pass",
        ("tests/server/test_limits.py",), "one_above or guide",
    ),
    Mutant(
        "bounded", "the event loop waits for every parser", "parsed_aside",
        "len(raw) <= LONG_BODY", "True",
        ("tests/server/test_limits.py",), "beside_the_event_loop",
    ),
    Mutant(
        "bounded", "texts are as long as the body", "refuse_oversize",
        "_refuse_texts(body, limits)", "pass",
        ("tests/server/test_limits.py",), "prompts_in_a_list",
    ),
    Mutant(
        "bounded", "an automaton for each length in a schema", "refuse_large_guide",
        "_num_lengths(entries)", "0",
        ("tests/server/test_limits.py",), "max_guide_lengths",
    ),
    Mutant(
        "bounded", "logprobs of a prompt are not counted", "Admission.admit",
        "refuse_prompt_logprobs(fields, body, self.limits)", "pass",
        ("tests/server/test_limits.py",), "prompts_logprobs",
    ),
    Mutant(
        "bounded", "one request takes every seat", "RequestLimits.served",
        "size.max_num_seqs - 1", "size.max_num_seqs",
        ("tests/server/test_limits.py",), "what_is_served",
    ),
    Mutant(
        "bounded", "only governed bodies are bounded", "Gate._bounded",
        'scope["method"] in BODILESS', "True",
        ("tests/server/test_survival.py",), "every_door",
    ),
    Mutant(
        "bounded", "whoever asks is tokenized for", "RouteTable.judge",
        "replace(verdict, needs_key=harmless.needs_key)", "verdict",
        ("tests/server/test_routes.py",), "needs_a_key",
    ),
    Mutant(
        "bounded", "a field is parsed for who has no grant", "parse_field",
        "_refuse_ungranted(raw, caller)", "pass",
        ("tests/server/test_limits.py",), "no_grant",
    ),
    Mutant(
        "bounded", "steering is compiled before it is counted", "refuse_excess",
        "refuse_cost(terms, plan.sources, plan.body.limits, origin=origin)", "pass",
        ("tests/server/test_limits.py",), "one_above",
    ),
    _mutant(
        "bounded", "a set of terms is compiled wherever it holds", "RequestPrograms.of",
        "held not in self._known", "True",
        "request_programs", "share",
    ),
    _mutant(
        "bounded", "each choice compiles its own programs", "Orders._place",
        "self._programs.get(known)", "None",
        "request_programs", "share",
    ),
    _mutant(
        "bounded", "a mark tells the workers everything anew", "Orders.look_at_output",
        "_steering(passenger, unheard)",
        "_steering(passenger)",
        "request_programs", "behind_it_alone",
    ),
    _mutant(
        "bounded", "a prompt is cut as often as its marks say", "Orders._place",
        "sum(map(len, places)) > passenger.plan.body.limits.max_segments", "False",
        "request_programs", "cut_too_often",
    ),
    _mutant(
        "bounded", "a block's key looks at all that lies before", "Timeline.requested_from",
        'bisect_right(self.requested, position, key=attrgetter("stop"))', "0",
        "timeline", "however_many",
    ),
    _mutant(
        "bounded", "compiled programs are kept for ever", "_Cache.put",
        "self._bytes > self._max_bytes", "False",
        "request_programs", "within_bytes",
    ),
    Mutant(
        "engine-survives", "an error quotes what cannot be sent", "error_body",
        "sendable(message)", "message",
        ("tests/server/test_limits.py",), "quotes",
    ),
    Mutant(
        "never-silent", "a path may hold NUL", "_on_a_disk",
        "\"\\0\" in text or text != sendable(text)", "False",
        ("tests/server/test_limits.py",), "nobody_writes",
    ),
    Mutant(
        "never-silent", "a file nested too deep ends in a traceback", "load_config",
        "RecursionError", "ZeroDivisionError",
        ("tests/server/test_limits.py",), "nobody_writes",
    ),
    # authored: where an assistant's turn opens
    _mutant(
        "authored", "the prompt's last token is read, whatever it is", "is_anchored",
        'spec.scope == "prompt" and spec.aggregate.kind == "last"', "False",
        "watches", "largest_value",
    ),
    _mutant(
        "authored", "only the last opening of a prompt is read", "TurnReader.read",
        "turns.stops_H[turns.is_ours_H & ~refused_H]",
        "turns.stops_H[turns.is_ours_H & ~refused_H][-1:]",
        "turn_markers", "more_or_less",
    ),
    _mutant(
        "authored", "what was read when it was asked is not read again", "TurnReader._where_asked",
        "if each.asks: ...", "if False: ...",
        "turn_markers", "earlier_answer_opens",
    ),
    _mutant(
        "authored", "a turn of an unknown role is nobody's", "TurnReader.turns",
        "if self._heading: ...", "if False: ...",
        "turn_markers", "role_nobody_knows",
    ),
    _mutant(
        "authored", "a refused question bars the rest of a conversation", "TurnReader._is_refused",
        "ids_T[begins[h] : ends[h]].tobytes() in self._refused",
        "False",
        "turn_markers", "policy_refused",
    ),
    _mutant(
        "authored", "any answer of a refusal's length is one", "TurnReader._is_refused",
        "ids_T[begins[h] : ends[h]].tobytes() in self._refused",
        "True",
        "turn_markers", "more_or_less",
    ),
    _mutant(
        "authored", "a refusal before another turn of the assistant ends the question",
        "TurnReader._is_refused",
        "ours_H[:-1] & ~turns.is_unknown_H[:-1] & ~ours_H[1:]",
        "ours_H[:-1] & ~turns.is_unknown_H[:-1]",
        "turn_markers", "asked_past",
    ),
    _mutant(
        "authored", "nobody looks for openings in the output", "Guarded.update_from_output",
        "self._openings.find(client_outputs.outputs)", "pass",
        "authored", "opening_in_the_output",
    ),
    _mutant(
        "authored", "nobody looks for openings in drafts", "Guarded.update_from_output",
        "self._openings.find_drafted(model_runner_output, verified)", "pass",
        "authored", "opening_in_the_output",
    ),
    _mutant(
        "authored", "an opening in the output is read and not judged", "Governor.observe",
        'self._evaluate("prompt", folded.again, ruling, again=True)', "pass",
        "authored", "opening_in_the_output",
    ),
    _mutant(
        "authored", "output rules do not see what a client began", "Governor.observe",
        "self._judge_supplied(folded, ruling)", "pass",
        "authored", "client_wrote_of_an_answer",
    ),
    _mutant(
        "authored", "what a client began is skipped where it is cached", "Guarded._watch",
        "authorship.num_supplied > 0 and self._governor.reads_answer(watched)",
        "False",
        "authored", "cached_prompt",
    ),
    _mutant(
        "authored", "an earlier question steers every later answer", "Governor._evaluate",
        'phase == "prompt" and not again and not self._again_R.all()', "False",
        "authored", "steers_asks",
    ),
    Mutant(
        "cache-sound", "scores that a hit left out are taken for some", "FitEngine.say",
        "_cached(each) >= asked[i][0].start", "False",
        ("tests/training/test_fit_engine.py",), "asked_before",
    ),
    Mutant(
        "cache-sound", "an unsteered text is scored out of the cache", "FitEngine._scored.params",
        "term is None or not reads_cache", "False",
        ("tests/training/test_fit_engine.py",), "asked_before or wrote_itself",
    ),
    Mutant(
        "authored", "the plan does not know what policies say", "plan_for",
        "turn_markers(args, policy_messages(policies))", "turn_markers(args)",
        ("tests/engine/test_turn_markers.py",), "policies_say",
    ),
    Mutant(
        "bounded", "a prompt that is too long is read in vain", "Rescorer._is_too_long",
        "return size > context", "return False",
        ("tests/server/test_rescoring.py",), "in_vain",
    ),
    Mutant(
        "bounded", "every prompt of a list is scored at once", "Rescorer.prompt_verdicts",
        "batch and sum(map(len, batch)) + len(prompt) > self._admission.max_model_len",
        "False",
        ("tests/server/test_rescoring.py",), "in_turn",
    ),
    Mutant(
        "bounded", "what each choice carries is not counted", "Admission.admit",
        "refuse_heavy_choices(fields, self.limits)", "pass",
        ("tests/server/test_limits.py",), "max_choice_",
    ),
    Mutant(
        "bounded", "logprobs of named tokens are not counted", "refuse_heavy_choices",
        "len(read.get(NAMED_LOGPROBS) or ())", "0",
        ("tests/server/test_limits.py",), "named_tokens",
    ),
    # /v1/responses: an answer that is told of many times, and a conversation made of items
    Mutant(
        "nothing-leaves", "the last event of a response has all that was withheld",
        "ResponseStream._finish",
        'end_response(content["response"], ending, [*self._items, item])', "pass",
        ("tests/server/endpoints/test_response_events.py",), "nothing_withheld",
    ),
    Mutant(
        "nothing-leaves", "a response leaves before its final rules", "ResponseStream._holds",
        "exposure.buffers or (exposure.ends and self._answer.log(CHOICE) is None)",
        "exposure.ends and self._answer.log(CHOICE) is None",
        ("tests/server/endpoints/test_response_events.py",), "final_block",
    ),
    Mutant(
        "read-alike", "a response that nobody told of goes free", "ResponseStream._holds",
        "exposure.buffers or (exposure.ends and self._answer.log(CHOICE) is None)",
        "exposure.buffers",
        ("tests/server/endpoints/test_response_events.py",), "without_an_account",
    ),
    Mutant(
        "nothing-leaves", "half a call is told as whole", "ResponseStream._passed",
        'content["type"] in _CALL_DONE and self._is_cut', "False",
        ("tests/server/endpoints/test_response_events.py",), "never_told_as_whole",
    ),
    Mutant(
        "nothing-leaves", "raw messages show a blocked response", "_SHOWS_MORE",
        '("output_messages", "kv_transfer_params", "ec_transfer_params")', "()",
        ("tests/server/endpoints/test_response_events.py",), "refusal_alone",
    ),
    Mutant(
        "never-silent", "a response starts that the engine refuses", "Exchange._may_start",
        "not self._rewriter.may_start", "False",
        ("tests/server/endpoints/test_response_events.py",), "engine_refuses",
    ),
    Mutant(
        "authored", "a response's prompt that is cut off opens a turn", "Responses.read",
        'read["truncation"] != "disabled"', "False",
        ("tests/server/endpoints/test_responses.py",), "may_be_cut",
    ),
    Mutant(
        "authored", "a schema of a response leaves the words to the model", "Responses.read",
        'shape is not None and shape.type == "json_schema"', "False",
        ("tests/server/endpoints/test_responses.py",), "constraint",
    ),
    Mutant(
        "authored", "an item that is not complete closes its turn", "conversation",
        "should_continue_final_message(asked.input)", "False",
        ("tests/server/endpoints/test_responses.py",), "open",
    ),
    Mutant(
        "read-alike", "fields that nobody declared reach vLLM's parsers", "Responses.read",
        "del body[name]", "pass",
        ("tests/server/endpoints/test_responses.py",), "do_not_reach",
    ),
    Mutant(
        "read-alike", "a response is kept where the server can", "Responses.read",
        'body["store"] = False', "pass",
        ("tests/server/endpoints/test_responses.py",), "nothing_is_kept",
    ),
    Mutant(
        "bounded", "a list of items that are none costs a page of errors each", "_try_each",
        "raise RequestError(\n"
        '    f"{field}.{index}: got one of type {ascii(kind)[:60]} that cannot be read; "\n'
        '    "want one of the Responses API, with all that its type needs",\n'
        "    param=field,\n"
        ") from error", "pass",
        ("tests/server/endpoints/test_responses.py",), "refused_at_the_first",
    ),
    Mutant(
        "every-door", "the server runs tools that no rule looks at", "refuse_ungoverned",
        'tool.get("type") not in TOOLS', "False",
        ("tests/server/endpoints/test_responses.py",), "server_would_run",
    ),
    Mutant(
        "every-door", "an endpoint that cannot be governed stays open", "RouteTable.judge",
        "if path in self._closed: ...", "if False: ...",
        ("tests/server/endpoints/test_registry.py",), "closed_for_a_model",
    ),
)  # fmt: skip
