"""Each rule of the planner, taken away in one edit, and the test that must fail then."""

from dataclasses import dataclass

PLANNER, CANARY = "tests/operator/rollout/test_planner.py", "tests/operator/rollout/test_canary.py"
WEIGHTS, TAKEN_BACK = "tests/operator/rollout/test_weights.py", "tests/operator/rollout/test_taken_back.py"
PARITY, MEASURED = "tests/operator/rollout/test_parity.py", "tests/operator/rollout/test_measured.py"
GOING_BACK = "tests/operator/rollout/test_going_back.py"
NO_ROOM = "tests/operator/rollout/test_no_room.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """`rule` as a sentence; `text` of `module` (in podium_operator/rollout) becomes `without`; `test` notices."""

    rule: str
    module: str
    text: str
    without: str
    test: str


MUTANTS = (
    Mutant(
        "the last pod of a pool stays while Gateways may send requests straight to it",
        "weights",
        "    return min(1, pool.replicas)\n",
        "    return size\n",
        f"{WEIGHTS}::test_while_a_gateway_does_not_answer_nothing_leaves_that_it_may_still_use",
    ),
    Mutant(
        "Gateways come to know a pool's Service before it gets a request",
        "weights",
        "                pools[name] = 0  # Gateways come to know the Service before it gets a request\n",
        "                pools[name] = weight\n",
        f"{WEIGHTS}::test_a_pool_is_named_without_a_weight_before_it_gets_one",
    ),
    Mutant(
        "a pool that one pod carries gets no requests of its own",
        "weights",
        "LEAST_PODS = 2\n",
        "LEAST_PODS = 1\n",
        f"{WEIGHTS}::test_one_replica_has_the_share_of_its_pods_and_no_pool_a_weight",
    ),
    Mutant(
        "a step of a surge is reached once Gateways divide by it",
        "canary",
        "    return weights.reached(observed, desired, home, at.weight, now)\n",
        "    return True\n",
        f"{WEIGHTS}::test_a_step_waits_for_a_gateway_that_is_slow_and_says_so",
    ),
    Mutant(
        "the old pool keeps what the new does not carry yet",
        "surge",
        "keep = max(0, demand.replicas - rollout.max_unavailable - carried)",
        "keep = 0",
        f"{PLANNER}::test_a_changed_shape_surges_into_a_new_pool_and_removes_the_old",
    ),
    Mutant(
        "the first pod of a surge comes alone",
        "surge",
        "if routable_count(home, demand.rollout, demand.now) == 0 and home.replicas <= 1:",
        "if False:",
        f"{PLANNER}::test_a_surge_whose_first_pod_fails_costs_that_pod_alone",
    ),
    Mutant(
        "a candidate is loaded in one pod first",
        "inplace",
        "limit = context.desired.rollout.max_parallel_loads if loaded else 1",
        "limit = 100",
        f"{PLANNER}::test_a_load_failure_touches_exactly_one_pod_and_the_old_serves_on",
    ),
    Mutant(
        "a third revision waits until the second has left",
        "inplace",
        "    third = [name for name in pool.warm if name != goal]\n",
        "    third: list[str] = []\n",
        f"{PLANNER}::test_a_third_revision_waits_until_the_warm_one_has_left",
    ),
    Mutant(
        "the old revision stays warm for the rollback window",
        "inplace",
        "return _promote(pool, goal, context, warm=(pool.promoted,))",
        "return _promote(pool, goal, context, warm=())",
        f"{PLANNER}::test_going_back_within_the_window_loads_nothing",
    ),
    Mutant(
        "the warm revision leaves when the window is over",
        "inplace",
        "    if until <= context.now:\n        return (), None\n",
        "",
        f"{PLANNER}::test_the_old_revision_stays_loaded_for_the_rollback_window_and_then_goes",
    ),
    Mutant(
        "a failed target is quarantined",
        "planner",
        "    if failure is not None and target.quarantine is None and _condemns(failure, desired):\n",
        "    if False:\n",
        f"{PLANNER}::test_a_load_failure_touches_exactly_one_pod_and_the_old_serves_on",
    ),
    Mutant(
        "once a rollout is complete, what one pod lacks condemns nothing",
        "planner",
        "    return desired.current != desired.target.name or failure.reason is Reason.RUNTIME_CRASH_LOOP\n",
        "    return True\n",
        f"{PLANNER}::test_a_pod_that_cannot_load_what_others_serve_degrades_and_rolls_nothing_back",
    ),
    Mutant(
        "what was there before a surge comes back for one whose workers die",
        "planner",
        "        return hand.instead(observed, desired) if in_new_pods else None\n",
        "        return None\n",
        f"{TAKEN_BACK}::test_a_version_whose_workers_die_after_a_surge_gives_way_to_the_one_before_in_new_pods",
    ),
    Mutant(
        "only within the rollback window",
        "assess",
        "    return any(moment is not None and now - moment <= window for moment in moments)\n",
        "    return True\n",
        f"{TAKEN_BACK}::test_a_version_that_has_served_for_longer_than_the_window_is_not_taken_back",
    ),
    Mutant(
        "one pod whose workers die condemns nothing",
        "failures",
        "    if not known or not all(_keeps_dying(pod, held, is_new=is_new) for pod, held in known):\n",
        "    if not known or not any(_keeps_dying(pod, held, is_new=is_new) for pod, held in known):\n",
        f"{TAKEN_BACK}::test_one_pod_whose_workers_die_speaks_not_against_a_version_that_serves_in_others",
    ),
    Mutant(
        "a quarantine ends only by another spec or another word of the user",
        "history",
        "        and (\n            known.name != desired.target.name\n"
        "            or known.retry_token != desired.retry_token\n"
        "            or _has_another_way(known, desired)\n        )\n",
        "",
        f"{PLANNER}::test_a_failed_revision_is_tried_again_only_when_the_user_asks",
    ),
    Mutant(
        "a stale leader does nothing",
        "assignments",
        "    if highest.transitions > lease_transitions:\n        return None\n",
        "",
        f"{PLANNER}::test_a_stale_leader_does_nothing",
    ),
    Mutant(
        "a paused rollout is not begun",
        "planner",
        "    if resolution.refusal is not None or desired.rollout.paused:\n",
        "    if resolution.refusal is not None:\n",
        f"{PLANNER}::test_a_paused_surge_makes_no_pool",
    ),
    Mutant(
        "without a free GPU a surge does not begin",
        "strategy",
        "    if desired.rollout.max_surge > 0 and gpu_fits(observed, per_pod) is False:\n",
        "    if False:\n",
        f"{PLANNER}::test_a_surge_without_a_free_gpu_waits_and_goes_on_when_there_is_room",
    ),
    Mutant(
        "what never served is nothing to go back to",
        "hand",
        "    served = [(known.served_at, known.ordinal, name) for name, known in usable.items() "
        "if known.served_at is not None]\n",
        "    served = [(known.served_at or known.started, known.ordinal, name) for name, known in usable.items()]\n",
        f"{GOING_BACK}::test_a_version_that_never_served_is_nothing_to_go_back_to",
    ),
    Mutant(
        "what served last comes back, not the newest record",
        "hand",
        "    return max(served)[2] if served else None\n",
        "    return max(served, key=lambda each: each[1])[2] if served else None\n",
        f"{GOING_BACK}::test_the_version_that_served_last_comes_back_not_the_newest_record",
    ),
    Mutant(
        "what never served leaves the history first",
        "history",
        "    idle.sort(key=lambda known: known.served_at is not None)\n",
        "",
        f"{GOING_BACK}::test_what_served_outlives_any_number_of_failed_tries_in_the_history",
    ),
    Mutant(
        "a pod without room for a candidate speaks against the strategy alone",
        "assess",
        " if not failures.refuses(p, target))\n",
        ")\n",
        f"{NO_ROOM}::test_what_a_pod_has_no_room_for_comes_in_new_pods_and_status_says_why",
    ),
    Mutant(
        "what a pod refused is not tried in place again",
        "strategy",
        "    return found if found.refusal is None else replace(",
        "    return found if True else replace(",
        f"{NO_ROOM}::test_without_a_free_gpu_it_waits_for_one_asks_no_pod_again_and_goes_on_by_itself",
    ),
    Mutant(
        "pods that serve something older and have no room for what their pool promotes are replaced",
        "planner",
        " if pool.promoted == goal and not _is_jammed(pool, desired)), None)\n",
        " if pool.promoted == goal), None)\n",
        f"{NO_ROOM}::test_pods_that_came_up_at_what_was_before_and_have_no_room_for_what_their_pool_promotes_are_replaced",
    ),
    Mutant(
        "a pod lets go of a candidate that comes in other pods",
        "planner",
        "    actions += inplace.relieved([pool for pool in observed.pools if pool != course.home], context)\n",
        "",
        f"{NO_ROOM}::test_only_one_pod_of_the_old_ones_is_ever_asked_and_lets_go_of_what_it_refused",
    ),
    Mutant(
        "what came in pods of its own goes back in pods of their own",
        "planner",
        "    return desired.chosen.resolved is not RolloutStrategy.IN_PLACE\n",
        "    return False\n",
        f"{NO_ROOM}::test_a_version_rolled_back_by_hand_gives_way_to_new_pods_since_the_old_has_no_room_beside_it",
    ),
    Mutant(
        "a refusal in place ends with the strategy that left no other way",
        "history",
        "            or _has_another_way(known, desired)\n",
        "",
        f"{NO_ROOM}::test_once_another_strategy_is_allowed_it_goes_on_by_itself",
    ),
    Mutant(
        "the lone pod of a cordoned node gets a second beside it",
        "surge",
        "return demand.replicas + (1 if demand.replicas == 1 and cordoned else 0)",
        "return demand.replicas",
        f"{PLANNER}::test_the_lone_pod_of_a_cordoned_node_gets_a_second_beside_it",
    ),
    Mutant(
        "a rollout keeps the strategy it began with",
        "strategy",
        "    if chosen is not None and _still_allowed(chosen.resolved, asked, same_shape):\n",
        "    if False:\n",
        "tests/operator/rollout/test_strategy.py::test_a_rollout_keeps_the_strategy_it_began_with",
    ),
    Mutant(
        "digests of the first load are pinned",
        "planner",
        "    actions += history.pins(observed)\n",
        "",
        f"{PLANNER}::test_digests_are_pinned_at_the_first_load_and_given_to_every_later_one",
    ),
    Mutant(
        "an empty pool is deleted",
        "sizes",
        "    return [*actions, *changes, *_empty(observed, home)]\n",
        "    return [*actions, *changes]\n",
        f"{PLANNER}::test_a_changed_shape_surges_into_a_new_pool_and_removes_the_old",
    ),
    Mutant(
        "a deleted ConfigMap is written again",
        "planner",
        "    actions += _restore(observed, context)\n",
        "",
        f"{PLANNER}::test_a_deleted_configmap_is_written_again_as_the_pods_have_it",
    ),
    Mutant(
        "no share before every ready pod has the candidate loaded",
        "canary",
        "        if home is None or (in_place and not loaded_everywhere(home, desired.target.name)):\n",
        "        if home is None:\n",
        f"{CANARY}::test_a_step_is_held_for_its_pause_though_the_operator_dies_and_another_leads",
    ),
    Mutant(
        "a step is held for its pause",
        "canary",
        "    if now < due:\n",
        "    if False:\n",
        f"{CANARY}::test_a_step_is_held_for_its_pause_though_the_operator_dies_and_another_leads",
    ),
    Mutant(
        "a step without a pause waits for promotion",
        "canary",
        "    if pause is None:\n",
        "    pause = pause or 0\n    if False:\n",
        f"{CANARY}::test_a_step_without_a_pause_waits_for_promotion",
    ),
    Mutant(
        "too few requests hold a step",
        "canary",
        "    if said.finding is Finding.INCONCLUSIVE:\n",
        "    if False:\n",
        f"{CANARY}::test_too_few_requests_hold_the_step_and_say_so_after_the_progress_deadline",
    ),
    Mutant(
        "a failed analysis gives the revision up",
        "assess",
        "    if desired.canary is not None and (said := findings(observed, desired)).finding is Finding.FAILED:\n",
        "    if False and (said := findings(observed, desired)):\n",
        f"{CANARY}::test_a_revision_beyond_a_limit_is_given_up_and_the_old_one_gets_its_traffic_back",
    ),
    Mutant(
        "a promotion says nothing of another revision",
        "canary",
        "    if name != desired.target.name:\n        return 0\n",
        "",
        f"{CANARY}::test_a_promotion_of_another_revision_moves_nothing",
    ),
    Mutant(
        "a complete rollout is not aborted",
        "hand",
        "hand.abort == target.name and desired.current not in (None, target.name)",
        "hand.abort == target.name",
        f"{CANARY}::test_abort_gives_the_old_revision_all_traffic_and_is_a_no_op_once_complete",
    ),
    Mutant(
        "pods that no node takes are taken back",
        "surge",
        "    if withdraws(home, demand):\n",
        "    if False:\n",
        f"{CANARY}::test_surge_pods_that_no_node_takes_are_taken_back_and_tried_again_when_room_appears",
    ),
    Mutant(
        "at weight 0 only copies can tell",
        "canary",
        "    if desired.canary is None or desired.canary.weight:\n",
        "    if True:\n",
        f"{PARITY}::test_a_step_of_weight_0_is_judged_by_copies_alone",
    ),
    Mutant(
        "answers that differ give the revision up",
        "parity",
        "    if percent > parity.max_mismatch_percent:\n",
        "    if False:\n",
        f"{PARITY}::test_a_revision_that_answers_otherwise_is_given_up_before_it_answers_anybody",
    ),
    Mutant(
        "copies without an answer count as differences",
        "parity",
        "found.compared + found.failed, found.mismatched + found.failed",
        "found.compared + found.failed, found.mismatched",
        f"{PARITY}::test_copies_that_the_new_revision_cannot_answer_count_against_it",
    ),
    Mutant(
        "too few copies hold a step",
        "parity",
        "    if judged < parity.min_compared:\n",
        "    if judged == 0:\n        return Analysed(Finding.PASSING, '')\n    if False:\n",
        f"{PARITY}::test_too_few_copies_hold_the_step_however_long_and_say_so",
    ),
    Mutant(
        "a model that may have effects gets no copies without leave",
        "parity",
        "    if parity is None or barred(parity, desired.target.record):\n",
        "    if parity is None:\n",
        f"{PARITY}::test_without_leave_nothing_is_copied_to_a_model_that_may_have_effects",
    ),
    Mutant(
        "a pod that makes other copies than asked for is told again",
        "canary",
        "    return held.shadow is None or held.shadow.policy == parity.policy(desired)\n",
        "    return True\n",
        f"{PARITY}::test_another_tolerance_reaches_the_pods_in_the_middle_of_a_step",
    ),
    Mutant(
        "a release that makes no copies is not told in vain",
        "canary",
        "    return held.shadow is None or held.shadow.policy == parity.policy(desired)\n",
        "    return held.shadow is not None and held.shadow.policy == parity.policy(desired)\n",
        f"{PARITY}::test_a_release_that_makes_no_copies_is_pushed_nothing_in_vain_and_holds_the_step",
    ),
    Mutant(
        "a surge passes over weight 0",
        "canary",
        "    if not in_place and steps[0].weight == 0:\n",
        "    if False:\n",
        f"{PARITY}::test_a_surge_passes_over_weight_0_and_holds_what_cannot_be_compared",
    ),
    Mutant(
        "a surge holds what cannot be compared",
        "parity",
        "        if serving is not None and serving.record.hashes.load == new.record.hashes.load:\n",
        "        if True:\n",
        f"{PARITY}::test_a_surge_passes_over_weight_0_and_holds_what_cannot_be_compared",
    ),
    Mutant(
        "a number beyond its limit gives the revision up",
        "measured",
        "    if check.max_value is not None and measured.value > float(check.max_value):\n",
        "    if False:\n",
        f"{MEASURED}::test_an_answer_beyond_a_limit_gives_the_revision_up",
    ),
    Mutant(
        "a server that is away holds the step",
        "measured",
        '        return Analysed(Finding.INCONCLUSIVE, f"Prometheus says nothing',
        '        return Analysed(Finding.PASSING, f"Prometheus says nothing',
        f"{MEASURED}::test_a_server_that_says_nothing_holds_the_step",
    ),
)
