from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from podium_crds.keys import LABEL_MODEL, LABEL_PIPELINE
from podium_operator.cache import Cache, owner_key
from podium_operator.kube.client import Listing
from podium_operator.kube.kinds import Ref
from podium_operator.metrics import Metrics
from podium_operator.workqueue import Key

Manifest = dict[str, Any]

MINILM = Key("InferenceModel", "default", "minilm")


def a_config_map(version: int, name: str = "pool", data: str = "1", owner: str = "minilm", uid: str = "u") -> Manifest:
    labels = {LABEL_MODEL: owner} if owner else {}
    metadata = {"name": name, "namespace": "default", "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"x": data}}


def a_pipeline(version: int, *models: str) -> Manifest:
    metadata = {"name": "answers", "namespace": "default", "resourceVersion": str(version)}
    members = [{"name": f"m{number}", "modelRef": {"name": name}} for number, name in enumerate(models)]
    return {"kind": "InferencePipeline", "metadata": metadata, "spec": {"models": members}}


def a_cache() -> Cache:
    return Cache(Metrics())


def data_of(cache: Cache) -> list[str]:
    return [each["data"]["x"] for each in cache.children("ConfigMap", MINILM)]


def test_what_was_told_can_be_read_by_name_and_by_owner() -> None:
    cache = a_cache()
    assert cache.told(a_config_map(5))
    found = cache.get(Ref("ConfigMap", "default", "pool"))
    assert found
    assert found["metadata"]["resourceVersion"] == "5"
    assert cache.children("ConfigMap", MINILM) == [found]
    assert cache.children("ConfigMap", Key("InferenceModel", "other", "minilm")) == []


def test_readers_get_copies_of_their_own() -> None:
    cache = a_cache()
    cache.told(a_config_map(5))
    cache.children("ConfigMap", MINILM)[0]["data"]["x"] = "spoilt"
    assert data_of(cache) == ["1"]


def test_managed_fields_are_not_kept() -> None:
    cache = a_cache()
    manifest = a_config_map(5)
    manifest["metadata"]["managedFields"] = [{"manager": "someone"}]
    cache.told(manifest)
    assert "managedFields" not in cache.children("ConfigMap", MINILM)[0]["metadata"]


def test_the_same_told_again_is_no_news() -> None:
    cache = a_cache()
    cache.told(a_config_map(5))
    assert not cache.told(a_config_map(5))
    assert not cache.told(a_config_map(6))


def test_an_event_from_before_our_write_changes_nothing() -> None:
    cache = a_cache()
    cache.told(a_config_map(5, data="old"))
    cache.wrote(a_config_map(8, data="ours"))
    assert not cache.told(a_config_map(6, data="between"))
    assert data_of(cache) == ["ours"]


def test_the_event_of_our_own_write_is_no_news() -> None:
    cache = a_cache()
    cache.wrote(a_config_map(5))
    assert not cache.told(a_config_map(5))


def test_a_change_by_someone_else_after_our_write_is_news() -> None:
    cache = a_cache()
    cache.wrote(a_config_map(5, data="ours"))
    assert cache.told(a_config_map(6, data="theirs"))


def test_a_change_of_what_we_wrote_is_drift_until_we_write_again() -> None:
    cache = a_cache()
    wanted = Ref("ConfigMap", "default", "pool")
    cache.wrote(a_config_map(5, data="ours"))
    assert not cache.drifted(wanted)
    cache.told(a_config_map(6, data="theirs"))
    assert cache.drifted(wanted)
    cache.wrote(a_config_map(7, data="ours"))
    assert not cache.drifted(wanted)


def test_a_change_of_status_is_no_drift() -> None:
    cache = a_cache()
    cache.wrote(a_config_map(5))
    cache.told({**a_config_map(6), "status": {"replicas": 1}})
    assert not cache.drifted(Ref("ConfigMap", "default", "pool"))


def test_what_this_process_never_wrote_has_not_drifted() -> None:
    cache = a_cache()
    cache.told(a_config_map(5, data="before"))
    cache.told(a_config_map(6, data="after"))
    assert not cache.drifted(Ref("ConfigMap", "default", "pool"))


def test_a_deletion_takes_it_out() -> None:
    cache = a_cache()
    cache.told(a_config_map(5))
    assert cache.removed(a_config_map(7))
    assert cache.get(Ref("ConfigMap", "default", "pool")) is None
    assert data_of(cache) == []
    assert not cache.removed(a_config_map(7))


def test_a_deletion_from_before_a_recreation_changes_nothing() -> None:
    cache = a_cache()
    cache.wrote(a_config_map(9, data="new", uid="second"))
    assert not cache.removed(a_config_map(7, uid="first"))
    assert data_of(cache) == ["new"]


def test_a_listing_from_before_a_deletion_brings_nothing_back() -> None:
    cache = a_cache()
    cache.told(a_config_map(5))
    cache.removed(a_config_map(9))
    healed = cache.heal("ConfigMap", Listing((a_config_map(5),), "8"))
    assert (healed.changed, healed.removed, data_of(cache)) == ((), (), [])


def test_a_recreation_after_a_deletion_is_taken() -> None:
    cache = a_cache()
    cache.told(a_config_map(5))
    cache.removed(a_config_map(9))
    assert cache.told(a_config_map(10, data="again"))
    assert data_of(cache) == ["again"]


def test_healing_finds_missed_changes_and_missed_deletions() -> None:
    cache = a_cache()
    for name in ("changed", "gone", "same"):
        cache.told(a_config_map(5, name))
    listing = Listing((a_config_map(7, "changed", data="2"), a_config_map(5, "same"), a_config_map(6, "new")), "9")
    healed = cache.heal("ConfigMap", listing)
    assert healed.changed == (Ref("ConfigMap", "default", "changed"), Ref("ConfigMap", "default", "new"))
    assert healed.removed == (Ref("ConfigMap", "default", "gone"),)
    assert healed.owners == {MINILM}


def test_healing_leaves_what_is_newer_than_the_listing() -> None:
    cache = a_cache()
    cache.wrote(a_config_map(12, "just-written"))
    assert cache.heal("ConfigMap", Listing((), "9")).removed == ()
    assert len(data_of(cache)) == 1


def test_healing_one_namespace_leaves_the_others() -> None:
    cache = a_cache()
    elsewhere = a_config_map(5)
    elsewhere["metadata"]["namespace"] = "other"
    cache.told(elsewhere)
    cache.told(a_config_map(5))
    healed = cache.heal("ConfigMap", Listing((), "9"), "default")
    assert healed.removed == (Ref("ConfigMap", "default", "pool"),)
    assert cache.get(Ref("ConfigMap", "other", "pool"))


def test_an_object_that_changes_hands_leaves_its_former_owner() -> None:
    cache = a_cache()
    cache.told(a_config_map(5, owner="minilm"))
    cache.told(a_config_map(6, owner="other"))
    assert data_of(cache) == []
    assert len(cache.children("ConfigMap", Key("InferenceModel", "default", "other"))) == 1


def test_pipelines_are_known_by_the_models_they_refer_to() -> None:
    cache = a_cache()
    answers = Key("InferencePipeline", "default", "answers")
    cache.told(a_pipeline(1, "minilm", "other"))
    assert cache.users(MINILM) == {answers}
    cache.told(a_pipeline(2, "other"))
    assert cache.users(MINILM) == frozenset()
    assert cache.users(Key("InferenceModel", "default", "other")) == {answers}
    cache.removed(a_pipeline(3, "other"))
    assert cache.users(Key("InferenceModel", "default", "other")) == frozenset()


def test_the_owners_of_pods_on_a_node_are_found() -> None:
    cache = a_cache()
    labels = {LABEL_MODEL: "minilm"}
    for name, node in (("one", "left"), ("two", "right")):
        metadata = {"name": name, "namespace": "default", "resourceVersion": "1", "labels": labels}
        cache.told({"kind": "Pod", "metadata": metadata, "spec": {"nodeName": node}, "status": {}})
    assert cache.owners_on("left") == {MINILM}
    assert cache.owners_on("elsewhere") == frozenset()


def test_a_resource_is_its_own_owner_and_a_pipeline_comes_before_a_model() -> None:
    model = {"kind": "InferenceModel", "metadata": {"name": "minilm", "namespace": "default"}}
    assert owner_key(model) == MINILM
    both = {"kind": "Pod", "metadata": {"name": "p", "namespace": "default", "labels": {}}}
    both["metadata"]["labels"] = {LABEL_MODEL: "minilm", LABEL_PIPELINE: "answers"}  # type: ignore[index]
    assert owner_key(both) == Key("InferencePipeline", "default", "answers")
    assert owner_key({"kind": "Node", "metadata": {"name": "n"}}) is None


class CacheFollowsTheServer(RuleBasedStateMachine):
    """Whatever is delivered late, twice or not at all: after a complete listing the cache is what the server holds."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = a_cache()
        self.version = 0
        self.server: dict[str, Manifest] = {}
        self.undelivered: list[tuple[str, Manifest]] = []
        self.floor: dict[str, int] = {}

    @rule(name=st.sampled_from("abc"), data=st.sampled_from("12"), ours=st.booleans())
    def write(self, name: str, data: str, *, ours: bool) -> None:
        self.version += 1
        self.server[name] = a_config_map(self.version, name, data)
        self.undelivered.append(("MODIFIED", self.server[name]))
        if ours:
            self.cache.wrote(self.server[name])
            self.floor[name] = self.version

    @rule(name=st.sampled_from("abc"))
    def delete(self, name: str) -> None:
        found = self.server.pop(name, None)
        if found is not None:
            self.version += 1
            self.undelivered.append(("DELETED", a_config_map(self.version, name, found["data"]["x"])))

    @rule(position=st.integers(0, 20), drop=st.booleans())
    def deliver(self, position: int, *, drop: bool) -> None:
        if not self.undelivered:
            return
        event, manifest = self.undelivered.pop(position % len(self.undelivered))
        if not drop:
            (self.cache.removed if event == "DELETED" else self.cache.told)(manifest)

    @rule()
    def resync(self) -> None:
        self.cache.heal("ConfigMap", Listing(tuple(self.server.values()), str(self.version)))
        expected = {name: manifest["data"]["x"] for name, manifest in self.server.items()}
        found = self.cache.children("ConfigMap", MINILM)
        assert {each["metadata"]["name"]: each["data"]["x"] for each in found} == expected

    @invariant()
    def never_older_than_our_own_write(self) -> None:
        for each in self.cache.children("ConfigMap", MINILM):
            assert int(each["metadata"]["resourceVersion"]) >= self.floor.get(each["metadata"]["name"], 0)


CacheFollowsTheServer.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCacheFollowsTheServer = CacheFollowsTheServer.TestCase
