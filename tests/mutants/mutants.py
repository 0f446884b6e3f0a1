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
        "max(edit.start, start) - start, min(edit.stop, stop) - start)",
        "0, 0)",
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
        "(edit.stage, edit.digest, edit.coefficient.hex(),",
        '(edit.stage, edit.digest, "",',
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
        "passenger.timeline.impose(self._plan.body.policy_targets[order.target].digest, span)",
        "pass",
        "cache_sound", "plain_turn_two",
    ),
    _mutant(
        "cached", "without room for rows prompts under a rule read the cache",
        "engine/scheduler.py",
        "request.skip_reading_prefix_cache = True",
        "request.skip_reading_prefix_cache = False",
        "cached_reads", "without_room",
    ),
    _mutant(
        "cached", "blocks that nobody read are taken", "engine/cached_reads.py",
        "if hashes[block] not in self._store and not self._promises[hashes[block]]:",
        "if False:",
        "cache_sound", "jailbreak",
    ),
    _mutant(
        "cached", "rows of blocks that are skipped are not folded", "engine/scheduler.py",
        "if skipped is not None:",
        "if False:",
        "cached_reads", "choices_of_one_prompt",
    ),
    _mutant(
        "cached", "a block counts as computed though its step was not planned",
        "engine/cached_reads.py",
        "if request_id not in request_ids:",
        "if False:",
        "cached_reads", "not_planned",
    ),
    _mutant(
        "cached", "rows live on when the cache is reset", "engine/scheduler.py",
        "self._cached_reads.clear()",
        "pass",
        "cached_reads", "gone_with_the_cache",
    ),
    _mutant(
        "cached", "a step of the cache's last life is kept", "engine/cached_reads.py",
        "if life == self.life:",
        "if True:",
        "cached_reads", "nobody_has",
    ),
    _mutant(
        "cached", "rows that others wait for are lost when there is no room",
        "engine/cached_reads.py",
        "follower.pinned[block_hash] = rows_SE\n\n    def _skipped",
        "pass\n\n    def _skipped",
        "cached_reads", "aborted_still",
    ),
    _mutant(
        "cached", "what is missing is passed over", "engine/cached_reads.py",
        "if rows_SE is None and not member.sees_all:",
        "if rows_SE is None:",
        "cached_reads", "nobody_has",
    ),
    _mutant(
        "cached", "who waits takes room for rows", "engine/cached_reads.py",
        "self._followers[request.request_id] = _Follower(request, sees_all)",
        "self._followers[request.request_id] = _Follower(request, sees_all, self._seat())",
        "cached_reads", "in_the_queue",
    ),
    _mutant(
        "cached", "a gap in an answer is not seen", "engine/cached_reads.py",
        "is_full &= self._since_C[slots] <= starts + 1 - self._size",
        "pass",
        "cached_reads", "gap_keeps_none",
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
        "streaming", "a prompt readout folds answers too", "engine/runs.py",
        "return np.zeros_like(prompt_R), prompt_R",
        "return np.zeros_like(prompt_R), np.full_like(prompt_R, 1 << 60)",
        "watches",
    ),
    # ops: the log, and the plan behind its digest
    Mutant(
        "never-printed", "the plan's text is the plan", "engine/opaque_plan.py",
        "HEAD + hashlib.sha256(told).hexdigest())",
        "HEAD + told.decode())",
        ("tests/engine/test_opaque_plan.py",),
    ),
    Mutant(
        "never-printed", "a copied plan is its digest alone", "engine/opaque_plan.py",
        "return type(self), (self.wire,)",
        "return str, (str(self),)",
        ("tests/engine/test_opaque_plan.py",),
    ),
    Mutant(
        "never-printed", "two plans share a compile cache", "engine/opaque_plan.py",
        'PRINTED = ("body", "tensors")',
        'PRINTED = ("body",)',
        ("tests/engine/test_opaque_plan.py",), "compile_caches",
    ),
    Mutant(
        "never-printed", "a dumped step shows its uploads", "engine/step.py",
        "layers: Mapping[Tap, LayerEdit] = field(repr=False)",
        "layers: Mapping[Tap, LayerEdit]",
        ("tests/engine/test_opaque_plan.py",), "dumps",
    ),
    Mutant(
        "own-lines", "words of others are printed as they are", "log_text.py",
        "return ascii(told[:MOST_CHARACTERS]) + _left_out",
        "return told[:MOST_CHARACTERS] + _left_out",
        ("tests/test_log_text.py",),
    ),
    Mutant(
        "own-lines", "a longer text begins lines of the log", "log_text.py",
        "return INDENT.join(",
        "return \"\\n\".join(",
        ("tests/test_log_text.py",),
    ),
    Mutant(
        "own-lines", "a path is logged as it came", "server/not_served.py",
        'logger.warning("denied %s %s", log_text(method), log_text(path))',
        'logger.warning("denied %s %s", log_text(method), path)',
        ("tests/test_log_text.py",),
    ),
    Mutant(
        "own-lines", "lines of ours go past vLLM's logger", "telemetry/logs.py",
        'ours.parent = logging.getLogger("vllm")',
        "ours.parent = logging.getLogger()",
        ("tests/telemetry/test_logs.py",),
    ),
    Mutant(
        "own-lines", "a configuration silences lines of ours", "telemetry/logs.py",
        "logging.getLogger(name).disabled = False",
        "logging.getLogger(name)",
        ("tests/telemetry/test_logs.py",), "disables",
    ),
    Mutant(
        "own-lines", "an address in a header is logged as it came", "telemetry/logs.py",
        "unprintable_escaped(each, MOST_CHARACTERS) if isinstance(each, str) else each",
        "each",
        ("tests/telemetry/test_logs.py",),
    ),
    Mutant(
        "own-lines", "any request id passes", "server/request_id.py",
        "if wrong is not None:",
        "if wrong is not None and False:",
        ("tests/server/test_request_id.py",),
    ),
    Mutant(
        "own-lines", "the header of a request id is not looked at", "server/gate.py",
        "            refuse_request_id_header(scope)\n",
        "            pass\n",
        ("tests/server/test_server_log.py",), "writes_no_line",
    ),
    Mutant(
        "own-lines", "the field of a request id is not looked at", "server/admission.py",
        "        refuse_request_id_field(body)\n",
        "",
        ("tests/server/test_server_log.py",), "writes_no_line",
    ),
    Mutant(
        "own-lines", "every API process says what runs", "server/endpoint.py",
        "if client_index(engine_client) == 0:",
        "if client_index(engine_client) >= 0:",
        ("tests/telemetry/test_metrics_http.py",), "two_api",
    ),
    # disk
    _mutant(
        "cache-sound", "of two rules on one vector the later wins", "engine/policy_spans.py",
        "return min(one, other, key=lambda span: (-abs(span.coefficient), span.rank))",
        "return other",
        "policy_steering", "two_then_one",
    ),
    _mutant(
        "cache-sound", "of two equal strengths the one that began wins", "engine/policy_spans.py",
        "key=lambda span: (-abs(span.coefficient), span.rank))",
        "key=lambda span: -abs(span.coefficient))",
        "policy_spans",
    ),
    _mutant(
        "engine-survives", "a rule at the last token is kept for ever", "engine/steering_state.py",
        "if span.request_id in ended:",
        "if span.request_id is None:",
        "steering_state", "last_token",
    ),
    _mutant(
        "never-silent", "a token that two steer counts twice", "engine/passenger.py",
        "for start, stop in merged(each))",
        "for start, stop in each)",
        "policy_steering", "counts_once",
    ),
    Mutant(
        "never-silent", "a link to a policy's folder is left out", "policy/discovery.py",
        "            self._links.append((path, status))",
        "            pass",
        ("tests/policy/test_discovery.py",),
    ),
    Mutant(
        "never-silent", "what a mount keeps for itself is read", "policy/discovery.py",
        "names = [name for name in names if not MOUNTED.fullmatch(name)]",
        "names = list(names)",
        ("tests/policy/test_discovery.py",), "mount or swap",
    ),
    Mutant(
        "never-silent", "a policy under another name is left out", "policy/discovery.py",
        "        if says.search(text):",
        "        if not text:",
        ("tests/policy/test_discovery.py",),
    ),
    Mutant(
        "never-silent", "a link that leads nowhere is left out", "policy/discovery.py",
        "elif not path.name.startswith(EDITORS_LOCK):",
        "elif not path.name:",
        ("tests/policy/test_discovery.py",),
    ),
    Mutant(
        "never-silent", "a mounted name without a link is left out", "policy/discovery.py",
        "            if name not in names:",
        "            if name is None:",
        ("tests/policy/test_discovery.py",),
    ),
    Mutant(
        "engine-survives", "a pipe is waited for", "policy/document.py",
        "if not stat.S_ISREG(status.st_mode):",
        "if stat.S_ISDIR(status.st_mode):",
        ("tests/policy/test_discovery.py",), "pipe or mail",
    ),
    Mutant(
        "never-silent", "a link out of its folder is followed", "model/links.py",
        "if real.is_relative_to(folder) or real.parent == _blobs(folder):",
        "if real:",
        ("tests/model/test_links.py",),
    ),
    Mutant(
        "never-silent", "any folder called snapshots has blobs", "model/links.py",
        'if each.parent.name == "snapshots" and REPOSITORY.fullmatch(repository.name):',
        'if each.parent.name == "snapshots":',
        ("tests/model/test_links.py",),
    ),
    Mutant(
        "never-silent", "an SAE under a second name is another", "edit/program.py",
        "features.setdefault(source.digest, []).append(share)",
        "features.setdefault(str(id(source)), []).append(share); saes[str(id(source))] = source",
        ("tests/edit/test_feature.py",), "two_names",
    ),
    # formats
    Mutant(
        "never-silent", "k among the activation's arguments is not looked for",
        "model/sae/saelens.py",
        '("activation_fn_kwargs.k", fields.group("activation_fn_kwargs").raw.get("k")),', "",
        ("tests/model/sae/test_saelens_versions.py",), "stood_among",
    ),
    Mutant(
        "never-silent", "a single head by its older name is taken", "model/sae/saelens.py",
        'for name in ("hook_head_index", "hook_point_head_index"):',
        'for name in ("hook_head_index",):',
        ("tests/model/sae/test_saelens_versions.py",), "single_head",
    ),
    Mutant(
        "never-silent", "a checkpoint's norms are not folded", "model/sae/saelens.py",
        "        _fold_norms(place, tensors)\n", "        pass\n",
        ("tests/model/sae/test_saelens_versions.py",), "folded",
    ),
    Mutant(
        "never-silent", "what only a table says of a release is passed over",
        "model/sae/centring.py",
        "    by_fields = release_told_by(fields.raw)\n", "    by_fields = None\n",
        ("tests/model/sae/test_centring.py",), "under_any_name",
    ),
    Mutant(
        "never-silent", "an open question of centring is not told", "model/sae/centring.py",
        "return Centring(False, () if is_rms or _is_later(fields) else (OPEN,))",
        "return Centring(False)",
        ("tests/model/sae/test_centring.py",), "does_not_say_it",
    ),
    Mutant(
        "never-silent", "a note of an SAE stays unlogged", "model/sae/opened.py",
        "    if sae.digest not in _OPEN:\n", "    if False:\n",
        ("tests/model/sae/test_centring.py",), "logs",
    ),
    Mutant(
        "never-silent", "towers count as the language model", "model/module_path.py",
        "_BLOCK.fullmatch(_dotted(path))", "_BLOCK.search(_dotted(path))",
        ("tests/model/test_module_path.py",), "other_modules",
    ),
    Mutant(
        "never-silent", "another model's control vector is taken", "model/formats/target.py",
        "if hint and known and not any(", "if False and not any(",
        ("tests/model/formats/test_model_types.py",), "mismatch",
    ),
    Mutant(
        "never-silent", "an intervention on a head lands on the stream",
        "model/formats/loreft.py", 'if unit not in (None, "pos"):', "if False:",
        ("tests/model/formats/test_loreft_names.py",), "no_site",
    ),
    Mutant(
        "never-silent", "a mark in front is part of the first name", "contrast/row_file.py",
        'return data.decode("utf-8-sig")', 'return data.decode("utf-8")',
        ("tests/contrast/test_row_file.py",), "mark_in_front",
    ),
    Mutant(
        "never-silent", "cells under no name are dropped", "contrast/row_file.py",
        "if len(row) != len(names) or extra:", "if len(row) != len(names):",
        ("tests/contrast/test_row_file.py",), "under_no_name",
    ),
    Mutant(
        "never-silent", "variables that no template reads are dropped",
        "engine/compat/prompts.py", "    if unread:\n", "    if False:\n",
        ("tests/cli/test_fit_texts.py",), "no_template_reads",
    ),
    Mutant(
        "never-silent", "a prompt that begins twice is not told", "engine/compat/prompts.py",
        "return list(tokenizer.encode(text))[:2] == [bos_id, bos_id]", "return False",
        ("tests/cli/test_fit_texts.py",), "begins_twice",
    ),
    Mutant(
        "never-silent", "long work is not told of without a terminal", "progress.py",
        'to.write(f"{now[-1]}\\n")', "pass",
        ("tests/test_progress.py",), "takes_long",
    ),
    # doors: text of the client's in the assistant's place
    Mutant(
        "authored", "an answer that the client began is the model's", "server/client_text.py",
        'if fields.roles and fields.roles[-1] == "assistant":', "if False:",
        ("tests/server/test_client_text.py",), "at_the_end",
    ),
    Mutant(
        "authored", "parts of a begun answer are not read", "server/client_text.py",
        "elif isinstance(value, list):", "elif False:",
        ("tests/server/test_client_text.py",), "wherever_a_message",
    ),
    Mutant(
        "authored", "what a grammar writes is the model's", "server/client_text.py",
        'read.get("structured_outputs") is not None', "False",
        ("tests/server/test_client_text.py",), "constraint",
    ),
    Mutant(
        "authored", "a verdict on the client's text changes nothing", "server/rescoring.py",
        "entry.prompt_verdicts[prompt] = verdict", "pass",
        ("tests/server/doors/test_doors.py",), "closed",
    ),
    Mutant(
        "read-alike", "a choice without an account is as good as any", "server/settlement.py",
        "if log is None and admitted.exposure.ends:", "if False:",
        ("tests/server/test_unaccounted.py",),
    ),
    # identity: the peer on the wire
    Mutant(
        "identity", "an API key is left to how vLLM reads a path", "server/gate.py",
        "await send_json(send, 401, UNAUTHORIZED)",
        "await self._app(scope, receive, send)",
        ("tests/server/test_not_served.py",), "shows_no_key",
    ),
    Mutant(
        "never-silent", "a root path that vLLM cannot route is taken", "engine/refusals.py",
        'v.endswith("/"),',
        "False,",
        ("tests/engine/test_refusals_page.py",), "root_path",
    ),
    Mutant(
        "never-silent", "a proxy that is not on the list is not told of", "server/identity.py",
        "            self._told.add(address)\n",
        "            return\n",
        ("tests/server/test_identity.py",), "in_vain",
    ),
    Mutant(
        "identity", "uvicorn takes the peer from a header", "server/peer.py",
        'os.environ[FORWARDING_VARIABLE] = ""',
        "os.environ.pop(FORWARDING_VARIABLE, None)",
        ("tests/server/test_peer.py",), "no_header_chooses",
    ),
    Mutant(
        "identity", "another trust of uvicorn's is taken", "server/peer.py",
        "    if asked:",
        "    if False:",
        ("tests/server/test_peer.py",), "another_trust",
    ),
    Mutant(
        "identity", "an API process does not look whether peers are rewritten", "server/peer.py",
        '    if found != "":',
        "    if False:",
        ("tests/server/test_peer.py",), "api_process",
    ),
    Mutant(
        "identity", "a mapped address is no IPv4 one", "server/peer.py",
        "return inner or address",
        "return address",
        ("tests/server/test_peer.py",), "dual_stack",
    ),
    Mutant(
        "identity", "a connection that was reset came over a Unix socket", "server/peer.py",
        "unix=server is not None and server[1] is None",
        "unix=True",
        ("tests/server/test_peer.py",), "who_counts",
    ),
    Mutant(
        "identity", "an address in a client's own network draws its rollout anew", "server/peer.py",
        "(int(self.address), IPV6_SUBNET_BITS)",
        "(int(self.address), 128)",
        ("tests/server/test_peer.py",), "rollout",
    ),
    Mutant(
        "identity", "a proxy that passes its client's host on is a caller here", "server/peer.py",
        "if not _names_this_machine(host):",
        "if False:",
        ("tests/server/test_peer.py",), "another_host",
    ),
    Mutant(
        "identity", "a proxy that asks in HTTP/1.0 is a caller here", "server/peer.py",
        'if scope.get("http_version") == "1.0" else None',
        "if False else None",
        ("tests/server/test_peer.py",), "nginx",
    ),
    Mutant(
        "identity", "anybody names a tenant", "server/identity.py",
        "tenant=self._tenant(headers) if proxy else NO_TENANT",
        "tenant=self._tenant(headers)",
        ("tests/server/test_identity.py",), "only_a_trusted",
    ),
    Mutant(
        "identity", "a tenant that a client added to is taken", "server/identity.py",
        "if len(named) > 1 or not fine:",
        "if not fine:",
        ("tests/server/test_identity.py",), "added_to",
    ),
    Mutant(
        "identity", "who listens beyond this machine needs no key", "server/identity.py",
        "if not self._is_private:",
        "if False:",
        ("tests/server/test_identity.py",), "operator",
    ),
    Mutant(
        "identity", "a trusted proxy on this machine is the operator", "server/identity.py",
        "if trusts(self._auth, peer):",
        "if False:",
        ("tests/server/test_identity.py",), "operator",
    ),
    Mutant(
        "identity", "what was passed on is the operator's", "server/identity.py",
        "        if sign is not None:",
        "        if False:",
        ("tests/server/test_identity.py",), "operator",
    ),
    Mutant(
        "identity", "the demo grants to what was passed on", "server/identity.py",
        "local = peer.on_this_machine and not proxy and passed_on(scope) is None",
        "local = peer.on_this_machine",
        ("tests/server/test_identity.py",), "demo_grants",
    ),
    Mutant(
        "identity", "every Unix peer is a trusted proxy", "server/listening.py",
        "return UNIX_PEERS in auth.trusted_proxies.cidrs",
        "return True",
        ("tests/server/test_identity.py",), "unix_socket or operator",
    ),
    Mutant(
        "never-silent", "proxies that no peer can be are taken", "server/listening.py",
        "if networks and not any(listening.can_reach(each) for each in networks):",
        "if False:",
        ("tests/server/test_listening.py",), "no_peer_can_be",
    ),
    Mutant(
        "never-silent", "networks are taken where peers have no address", "server/listening.py",
        "if listening.unix and cidrs and UNIX_PEERS not in cidrs:",
        "if False:",
        ("tests/server/test_listening.py",), "no_peer_can_be",
    ),
    Mutant(
        "never-silent", "a network that mapped peers are never in is taken", "trusted_proxies.py",
        "if inside is not None and network.prefixlen >= 96:",
        "if False:",
        ("tests/server/test_listening.py",), "refused_with_the_file",
    ),
    Mutant(
        "never-silent", "a tenant header that the gate drops is taken", "trusted_proxies.py",
        "if given.lower().startswith(OWN_HEADERS):",
        "if False:",
        ("tests/server/test_listening.py",), "refused_with_the_file",
    ),
    Mutant(
        "identity", "every address is a private one", "server/listening.py",
        "return Listening(loopback_only=address.is_loopback",
        "return Listening(loopback_only=True",
        ("tests/server/test_listening.py",), "private",
    ),
    Mutant(
        "every-door", "a redirect leads to what is denied", "server/not_served.py",
        'if table.judge(scope["method"], get_route_path(other)).kind == "denied" or',
        "if",
        ("tests/server/test_not_served.py",), "nobody_is_sent",
    ),
    Mutant(
        "every-door", "what vLLM would route is as unknown as anything", "server/not_served.py",
        "if path not in DENIED and not routed(scope):",
        "if path not in DENIED:",
        ("tests/server/test_not_served.py",), "somewhere_unknown",
    ),
    Mutant(
        "never-silent", "websockets are not counted", "server/gate.py",
        'state.metrics.request(None, OTHER_ENDPOINT, "", "deny")\n            await receive()',
        "pass\n            await receive()",
        ("tests/server/test_not_served.py",), "websocket",
    ),
    Mutant(
        "never-silent", "other methods of governed routes are not counted", "server/gate.py",
        'state.metrics.request(None, family.endpoint, "", client.outcome_or(outcome))',
        "pass",
        ("tests/server/test_not_served.py",), "counted_once",
    ),
    Mutant(
        "never-silent", "a client that went away is an error", "server/disconnect.py",
        'return "abort" if self._gone else outcome',
        "return outcome",
        ("tests/server/test_disconnect.py",), "has_gone",
    ),
    Mutant(
        "never-silent", "the gauge of programs stays up", "engine/scheduler.py",
        "        self._tell_programs()\n        pending,",
        "        pending,",
        ("tests/telemetry/test_metrics_http.py",), "gauge_of_programs",
    ),
    # constraints that write a text, and text behind what they write
    Mutant(
        "authored", "a tail behind a forced answer hides it", "server/client_text.py",
        "return (*_alone_and_together(answer, before), *ended)",
        "return _alone_and_together(answer, before)",
        ("tests/server/test_client_text.py",), "could_have_ended",
    ),
    Mutant(
        "authored", "words without an end are never cut", "server/prefixes.py",
        "or num_words == MAX_WORDS", "or False",
        ("tests/server/test_prefixes.py",), "without_an_end",
    ),
    Mutant(
        "authored", "what many bans leave is the model's", "server/client_text.py",
        'or len(biases) + len(read.get("bad_words") or ()) > MAX_BANS', "or False",
        ("tests/server/test_client_text.py",), "constraint",
    ),
    Mutant(
        "authored", "a strict tool's arguments are the model's", "server/client_text.py",
        "return pins_tools or strict or", "return pins_tools or",
        ("tests/server/test_client_text.py",), "constraint",
    ),
    Mutant(
        "authored", "the server's own grammar of tools is not heeded", "server/client_text.py",
        "return pins_tools or strict or", "return strict or",
        ("tests/server/test_client_text.py",), "grammar_of_them",
    ),
    Mutant(
        "nothing-leaves", "what a bias kept from being said is shown beside it",
        "server/bypass.py",
        "return bool(fields.num_logprobs) and fields.vllm is not None and leans_on_tokens(fields)",
        "return False",
        ("tests/server/test_admission.py",), "passed_by",
    ),
    Mutant(
        "nothing-leaves", "a client asks how likely a barred token is", "server/bypass.py",
        'return fields.vllm is not None and bool(fields.vllm.__dict__.get("logprob_token_ids"))',
        "return False",
        ("tests/server/test_admission.py",), "passed_by",
    ),
    # lint: doors that stay open, what the gate reads, and text that no model chose
    Mutant(
        "authored", "an endpoint left out is no door", "policy/open_scopes.py",
        "    if missing:\n", "    if False:\n",
        ("tests/policy/test_open_doors.py",), "scope_that_callers",
    ),
    Mutant(
        "authored", "a policy in shadow closes doors", "policy/ending_rules.py",
        'if policy.spec.mode == "enforce" and policy.spec.rollout_percent > 0',
        "if policy.spec.rollout_percent > 0",
        ("tests/policy/test_open_doors.py",), "shadow or ends_nothing",
    ),
    Mutant(
        "authored", "a rule for some callers closes doors for all", "policy/ending_rules.py",
        "and other.policy.spec.rollout_percent == 100\n", "and True\n",
        ("tests/policy/test_open_doors.py",), "in_shadow_or_for_some",
    ),
    Mutant(
        "authored", "proxies that are everyone are trusted", "policy/open_scopes.py",
        "ipaddress.ip_network(cidr).prefixlen == 0", "ipaddress.ip_network(cidr).prefixlen < 0",
        ("tests/policy/test_open_doors.py",), "scope_that_callers",
    ),
    Mutant(
        "authored", "scores that clients see are no door", "policy/open_doors.py",
        "if auth is not None and auth.client_scores:", "if False:",
        ("tests/policy/test_open_doors.py",), "scores_that_clients or grant_of_the_server",
    ),
    Mutant(
        "authored", "steering behind the verdict is no door", "policy/open_doors.py",
        "if steered and not house.has_output_half(mine):", "if False:",
        ("tests/policy/test_open_doors.py",), "behind_the_prompt",
    ),
    Mutant(
        "authored", "any rule over answers is the other half", "policy/ending_rules.py",
        "and other.policy.metadata.category == mine.policy.metadata.category", "and True",
        ("tests/policy/test_open_doors.py",), "says_of_itself",
    ),
    Mutant(
        "authored", "a late look at the prompt counts as one in time", "policy/open_doors.py",
        'if phase != "prompt" and reads_prompt and not', "if False and not",
        ("tests/policy/test_open_doors.py",), "later_phase",
    ),
    Mutant(
        "authored", "a rule that something high switches off is told of by nobody",
        "policy/open_doors.py", "yield from _lowered_by(node.operand, not wanted)",
        "yield from _lowered_by(node.operand, wanted)",
        ("tests/policy/test_open_doors.py",), "keeps_from_firing",
    ),
    Mutant(
        "never-silent", "lint tells of no door", "policy/lint.py",
        "for door in open_doors(policies, specs, around):", "for door in ():",
        ("tests/policy/test_open_doors.py",), "lint",
    ),
    Mutant(
        "never-silent", "doctor takes every model to have a template", "cli/doors_report.py",
        'return getattr(tokenizer, "chat_template", None) is not None', "return True",
        ("tests/cli/test_main.py",), "doctor_knows_from_the_model",
    ),
    Mutant(
        "authored", "a chat cut off may open no turn", "server/client_text.py",
        "cut = fields.vllm.truncate_prompt_tokens is not None", "cut = False",
        ("tests/server/test_client_text.py",), "may_not_be_open",
    ),
    Mutant(
        "authored", "a chat without a generation prompt may open no turn", "server/client_text.py",
        "if cut or not fields.add_generation_prompt:", "if cut:",
        ("tests/server/test_client_text.py",), "may_not_be_open",
    ),
    Mutant(
        "authored", "a sentence cut in two is read in halves", "server/client_text.py",
        'together = f"{before} {text}"', "together = text",
        ("tests/server/test_client_text.py",), "forced_answer or at_the_end",
    ),
    Mutant(
        "authored", "a schema leaves the words to the model", "server/client_text.py",
        "or (shape is not None and shape.type in _LITERAL_FORMATS)", "",
        ("tests/server/test_client_text.py",), "constraint",
    ),
    Mutant(
        "authored", "a forced tool leaves the words to the model", "server/client_text.py",
        'or (tool is not None and tool not in ("none", "auto"))', "",
        ("tests/server/test_client_text.py",), "constraint",
    ),
    Mutant(
        "authored", "a list of tokens leaves the words to the model", "server/client_text.py",
        'or read.get("allowed_token_ids")', "",
        ("tests/server/test_client_text.py",), "constraint",
    ),
    Mutant(
        "authored", "what a forced call says is not read", "server/client_text.py",
        'texts += [function.get("name"), function.get("arguments")]', "pass",
        ("tests/server/test_client_text.py",), "choice_says",
    ),
    Mutant(
        "authored", "a client's text that cannot be scored passes", "server/rescoring.py",
        "return self._admission.unscored_verdict(policies)", "return None",
        ("tests/server/test_rescoring.py",), "cannot_be_scored",
    ),
    Mutant(
        "authored", "an answer nobody told of counts as scored", "server/rescoring.py",
        "if found is None and (status != 200 or not entry.choices):",
        "if found is None and status != 200:",
        ("tests/server/test_rescoring.py",), "cannot_be_scored",
    ),
    Mutant(
        "authored", "a verdict on a forced answer changes nothing", "server/rescoring.py",
        "                    self._entry.impose(key, verdict)\n", "                    pass\n",
        ("tests/server/test_rescoring.py",), "constrained",
    ),
    Mutant(
        "authored", "a forced answer is scored by its last part", "server/rescoring.py",
        'self._said.get(index, "") + choice_text(choice)', "choice_text(choice)",
        ("tests/server/test_rescoring.py",), "streamed",
    ),
    Mutant(
        "authored", "a forced answer leaves before its verdict", "server/rescoring.py",
        "exposure=replace(exposure, buffers=True)", "exposure=exposure",
        ("tests/server/test_rescoring.py",), "constrained or several_prompts",
    ),
    Mutant(
        "authored", "a policy that scores answers scores none", "server/rescoring.py",
        "judging = exposure.applied if constrained else exposure.scores_answers",
        "judging = exposure.applied if constrained else ()",
        ("tests/server/test_rescoring.py",), "scores_answers",
    ),
    Mutant(
        "authored", "every policy scores answers", "server/rescoring.py",
        "judging = self.admitted.exposure.applied if policies is None else policies",
        "judging = self.admitted.exposure.applied",
        ("tests/server/test_rescoring.py",), "scores_answers",
    ),
    Mutant(
        "never-silent", "answers that nobody can score start a server", "server/exposure.py",
        "    if asking:\n", "    if False:\n",
        ("tests/server/test_rescoring.py",), "stop_the_start",
    ),
    Mutant(
        "never-silent", "scored answers in shadow are taken", "policy/check.py",
        "        elif spec.mode == \"shadow\":\n", "        elif False:\n",
        ("tests/policy/test_loader.py",), "malformed",
    ),
    Mutant(
        "authored", "one barred prompt blocks its neighbours", "server/rescoring.py",
        "blocked = len(entry.prompt_verdicts) == admitted.num_prompts",
        "blocked = bool(entry.prompt_verdicts)",
        ("tests/server/test_rescoring.py",), "several_prompts or put_into_words",
    ),
    Mutant(
        "authored", "our own request carries the client's headers", "server/rescoring.py",
        'headers = [each for each in scope["headers"] if each[0] in kept]',
        'headers = [each for each in scope["headers"] if each[0] != b"content-length"]',
        ("tests/server/test_rescoring.py",), "clients_key",
    ),
    Mutant(
        "authored", "a choice told of later goes free", "server/ledger.py",
        "imposed = self.prompt_verdicts.get(record.choice[0])", "imposed = None",
        ("tests/server/test_rescoring.py",), "several_prompts",
    ),
    Mutant(
        "read-alike", "the body goes on as it came", "server/request_schema.py",
        "    _write_back(body, asked)\n", "    pass\n",
        ("tests/server/test_request_schema.py",), "sent_on",
    ),
    Mutant(
        "read-alike", "choices are counted as they are written", "server/request_schema.py",
        '"num_per_prompt": n if n is not None and n > 0 else 1,', '"num_per_prompt": 1,',
        ("tests/server/test_request_schema.py", "tests/server/test_admission.py"),
        "reads_every_field or bound_on_choices",
    ),
    Mutant(
        "read-alike", "an echo asks for no logprobs", "server/request_schema.py",
        'return echoed if asked is None and read["echo"] else asked', "return asked",
        ("tests/server/test_request_schema.py",), "by_itself or reads_every_field",
    ),
    Mutant(
        "read-alike", "prompts of a list are one", "server/request_schema.py",
        "return 0 if prompt is None else len(prompt_to_seq(prompt))",
        "return 0 if prompt is None else 1",
        ("tests/server/test_request_schema.py",), "counted",
    ),
    Mutant(
        "read-alike", "a value that trips vLLM up is a fault of ours", "server/request_schema.py",
        '        raise RequestError(\n            f"body: cannot be read',
        '        raise ValueError(\n            f"body: cannot be read',
        ("tests/server/test_request_schema.py",), "trips_over",
    ),
    Mutant(
        "read-alike", "an empty template is one", "server/request_schema.py",
        'EMPTY_MEANS_NONE: Final = ("chat_template", "prompt_embeds")',
        "EMPTY_MEANS_NONE: Final = ()",
        ("tests/server/test_request_schema.py",), "sent_on",
    ),
    Mutant(
        "read-alike", "transfers among the arguments pass", "server/bypass.py",
        "if name in TRANSFER_KEYS and value:", "if False:",
        ("tests/server/test_admission.py",), "reads_as_on",
    ),
    Mutant(
        "read-alike", "a refusal that comes back is an empty turn", "server/history.py",
        '            message["content"] = text\n', "            pass\n",
        ("tests/server/test_request_schema.py",), "history",
    ),
    Mutant(
        "read-alike", "another number of choices is as good as any", "server/whole.py",
        "lost = admitted.exposure.ends and expected != sorted(",
        "lost = False and expected != sorted(",
        ("tests/server/test_unaccounted.py",), "another_number",
    ),
    Mutant(
        "read-alike", "one streamed choice too many says what it likes", "server/stream.py",
        "if self._lost or key not in self._entry.choices:", "if False:",
        ("tests/server/test_unaccounted.py",), "streamed",
    ),
    Mutant(
        "read-alike", "a record of no choice is an account", "server/ledger.py",
        "        if record.choice is None:\n", "        if False:\n",
        ("tests/server/test_unaccounted.py",), "nobodys_account",
    ),
    Mutant(
        "read-alike", "an encoded answer leaves unread", "server/answer.py",
        'Headers(raw=list(headers)).get("content-encoding", "identity") != "identity"', "False",
        ("tests/server/test_unaccounted.py",), "encoded_unasked",
    ),
    Mutant(
        "read-alike", "a client's wish for compression goes on", "server/answer.py",
        'if each[0] != b"accept-encoding"]', "]",
        ("tests/server/test_early_end.py",), "compresses",
    ),
    Mutant(
        "read-alike", "any content type is read", "server/gate.py",
        'if kind != JSON:', "if False:",
        ("tests/server/test_early_end.py",), "content_type",
    ),
    Mutant(
        "read-alike", "chunks of ours lack the usage of vLLM's", "server/stream.py",
        "        if self._tells_usage:\n", "        if False:\n",
        ("tests/server/test_early_end.py",), "chunks_of_ours",
    ),
    Mutant(
        "never-silent", "what vLLM resolves is not looked at", "engine/refusals.py",
        "found = resolved_value(config, refusal.resolved) if refusal.resolved else None",
        "found = None",
        ("tests/engine/test_never_silent.py",), "wherever_it_came_from",
    ),
    Mutant(
        "never-silent", "a pair that was resolved is not looked at", "engine/refusals.py",
        "    problems += _untested_together({name for name, used in kinds.items() if used})\n", "",
        ("tests/engine/test_never_silent.py",), "pair_is_refused_wherever",
    ),
    Mutant(
        "never-silent", "routed experts under another flag pass", "engine/refusals.py",
        'lambda v: bool(_within(v, "enable_return_routed_experts"))', "lambda v: False",
        ("tests/engine/test_never_silent.py",), "however_it_is_written or stops_the_start",
    ),
    Mutant(
        "never-printed", "an offline engine prints its plan", "engine/opaque_plan.py",
        "HEAD + hashlib.sha256(told).hexdigest())", "HEAD + told.decode())",
        ("tests/engine/test_plan_stays_hidden.py",), "steered_and_captured",
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
        "bounded", "the event loop waits for every parser", "server/body.py",
        "if len(raw) <= LONG_BODY:", "if True:",
        ("tests/server/test_limits.py",), "beside_the_event_loop",
    ),
    Mutant(
        "bounded", "texts are as long as the body", "server/body.py",
        "    _refuse_texts(body, limits)\n", "",
        ("tests/server/test_limits.py",), "prompts_in_a_list",
    ),
    Mutant(
        "bounded", "an automaton for each length in a schema", "server/guide.py",
        '(_num_lengths(entries), "max_guide_lengths"),', "",
        ("tests/server/test_limits.py",), "max_guide_lengths",
    ),
    Mutant(
        "bounded", "logprobs of a prompt are not counted", "server/admission.py",
        "        refuse_prompt_logprobs(fields, body, self.limits)\n", "",
        ("tests/server/test_limits.py",), "prompts_logprobs",
    ),
    Mutant(
        "bounded", "one request takes every seat", "limits.py",
        "size.max_num_seqs - 1)", "size.max_num_seqs)",
        ("tests/server/test_limits.py",), "what_is_served",
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
        "never-silent", "a path may hold NUL", "config.py",
        'if "\\0" in text or text != sendable(text):', "if False:",
        ("tests/server/test_limits.py",), "nobody_writes",
    ),
    Mutant(
        "never-silent", "a file nested too deep ends in a traceback", "config.py",
        "except RecursionError as error:", "except ZeroDivisionError as error:",
        ("tests/server/test_limits.py",), "nobody_writes",
    ),
    # authored: where an assistant's turn opens
    _mutant(
        "authored", "the prompt's last token is read, whatever it is", "engine/runs.py",
        'return spec.scope == "prompt" and spec.aggregate.kind == "last"', "return False",
        "watches", "largest_value",
    ),
    _mutant(
        "authored", "only the last opening of a prompt is read", "engine/authorship.py",
        "turns.stops_H[turns.is_ours_H & ~refused_H] - 1,",
        "turns.stops_H[turns.is_ours_H & ~refused_H][-1:] - 1,",
        "turn_markers", "more_or_less",
    ),
    _mutant(
        "authored", "what was read when it was asked is not read again", "engine/authorship.py",
        "if each.asks:", "if False:",
        "turn_markers", "earlier_answer_opens",
    ),
    _mutant(
        "authored", "a turn of an unknown role is nobody's", "engine/authorship.py",
        "        if self._heading:\n            heads", "        if False:\n            heads",
        "turn_markers", "role_nobody_knows",
    ),
    _mutant(
        "authored", "a refused question bars the rest of a conversation", "engine/authorship.py",
        "refused_H[h] = ids_T[begins[h] : ends[h]].tobytes() in self._refused",
        "refused_H[h] = False",
        "turn_markers", "policy_refused",
    ),
    _mutant(
        "authored", "any answer of a refusal's length is one", "engine/authorship.py",
        "refused_H[h] = ids_T[begins[h] : ends[h]].tobytes() in self._refused",
        "refused_H[h] = True",
        "turn_markers", "more_or_less",
    ),
    _mutant(
        "authored", "a refusal before another turn of the assistant ends the question",
        "engine/authorship.py",
        "ours_H[:-1] & ~turns.is_unknown_H[:-1] & ~ours_H[1:]",
        "ours_H[:-1] & ~turns.is_unknown_H[:-1]",
        "turn_markers", "asked_past",
    ),
    _mutant(
        "authored", "nobody looks for openings in the output", "engine/scheduler.py",
        "self._openings.find(client_outputs.outputs)", "pass",
        "authored", "opening_in_the_output",
    ),
    _mutant(
        "authored", "nobody looks for openings in drafts", "engine/scheduler.py",
        "self._openings.find_drafted(model_runner_output, verified)", "pass",
        "authored", "opening_in_the_output",
    ),
    _mutant(
        "authored", "an opening in the output is read and not judged", "engine/governor.py",
        'self._evaluate("prompt", folded.again, ruling, again=True)', "pass",
        "authored", "opening_in_the_output",
    ),
    _mutant(
        "authored", "output rules do not see what a client began", "engine/governor.py",
        "self._judge_supplied(folded, ruling)", "pass",
        "authored", "client_wrote_of_an_answer",
    ),
    _mutant(
        "authored", "what a client began is skipped where it is cached", "engine/scheduler.py",
        "in_answer = authorship.num_supplied > 0 and self._governor.reads_answer(watched)",
        "in_answer = False",
        "authored", "cached_prompt",
    ),
    _mutant(
        "authored", "an earlier question steers every later answer", "engine/governor.py",
        'if phase == "prompt" and not again and not self._again_R.all():', "if False:",
        "authored", "steers_asks",
    ),
    Mutant(
        "cache-sound", "scores that a hit left out are taken for some", "cli/fit_stand.py",
        "if _cached(each) >= asked[i][0].start]", "if False]",
        ("tests/cli/test_fit_stand.py",), "asked_before",
    ),
    Mutant(
        "cache-sound", "an unsteered text is scored out of the cache", "cli/fit_stand.py",
        "skips = term is None or not reads_cache", "skips = False",
        ("tests/cli/test_fit_stand.py",), "asked_before or wrote_itself",
    ),
    Mutant(
        "authored", "the plan does not know what policies say", "cli/launch.py",
        "turn_markers(args, policy_messages(policies))", "turn_markers(args)",
        ("tests/engine/test_turn_markers.py",), "policies_say",
    ),
    Mutant(
        "bounded", "a prompt that is too long is read in vain", "server/rescoring.py",
        "        return size > context\n", "        return False\n",
        ("tests/server/test_rescoring.py",), "in_vain",
    ),
    Mutant(
        "bounded", "every prompt of a list is scored at once", "server/rescoring.py",
        "if batch and sum(map(len, batch)) + len(prompt) > self._admission.max_model_len:",
        "if False:",
        ("tests/server/test_rescoring.py",), "in_turn",
    ),
    Mutant(
        "bounded", "what each choice carries is not counted", "server/admission.py",
        "        refuse_heavy_choices(fields, self.limits)\n", "",
        ("tests/server/test_limits.py",), "max_choice_",
    ),
    Mutant(
        "bounded", "logprobs of named tokens are not counted", "server/answer_size.py",
        "named = len(read.get(NAMED_LOGPROBS) or ())", "named = 0",
        ("tests/server/test_limits.py",), "named_tokens",
    ),
)  # fmt: skip
