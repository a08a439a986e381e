"""Updates: from every release to what lies here, nothing that somebody wrote is lost or in conflict.

Plain `copier update`, without trust, in projects whose owners replaced the agent, wrote at their places,
and have events on their way in the database.
"""

import json
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.render import REPOSITORY, git
from tools.release import VERSION

from .combinations import ALL_FIELDS, ANSWERS_FILE, BEHAVIOUR, VALUES, Answers, offered_in
from .conftest import AFTER_NEXT, NEXT, PLUGINS, RELEASES
from .import_closure import STARTS_PROCESSES, Closures
from .owned import SHOW_ALL, Owned, Releases, Stock, untouched, write_all
from .owner import (
    DELETED,
    HELLO,
    LOOP,
    OLD_NAMES,
    OURS,
    commit,
    lines_anywhere,
    write_at_new_places,
)
from .test_projects import is_independent, short_name

TRIAL = REPOSITORY / "tests" / "injected" / "in_flight.py"
TOUCHED = ("agent", "api", "architecture", "migrations", "trace", "versions")
"""Modules of tests that an owner's lines could break."""

TOUCHED_ONCE = ("console_pages", "revisions", "sources", "start", "webhooks")
"""More of them, which start processes or the whole application: they run in one shape."""

SHAPES: dict[str, dict[str, str]] = {
    "defaults": {},
    "batch": {"loop": "batch", "trigger": "periodic_summary", "event_types": ALL_FIELDS},
    "realtime with postgres": {
        "loop": "realtime",
        "locks": "postgres",
        "event_types": "[job.done]",
    },
}

ENDS = [version for version in RELEASES if version in (next(iter(RELEASES)), [*RELEASES][-1])]
"""The first release and the last one, for what hardly depends on the release."""

TURNS = 4  # projects with the untouched agents of one release: as many as there are loops
EVENTS = 13  # of each scope; the last six alone make every trigger act, however slow an update is
SCOPES = ("north", "east", "south")  # of `in_flight.py`


def handle(project: Owned, *numbers: int, url: str) -> str:
    """Let the project's agent handle events of several scopes with these numbers; see `in_flight.py`."""
    env = {"DATABASE_URL": url, "TIMERS": "{}", "AGENT_BATCH_WAIT": "0.2"}
    return project.run(TRIAL, "handle", *map(str, numbers), PYTHONWARNINGS=SHOW_ALL, **env)


def tried() -> list[tuple[str, str]]:
    """Return every release with the defaults, and its ends with the other shapes."""
    usual, *others = SHAPES
    return [
        (version, shape)
        for version in RELEASES
        for shape in ((usual, *others) if version in ENDS else (usual,))
    ]


@pytest.fixture(params=RELEASES)
def version(request: pytest.FixtureRequest) -> str:
    """Each release."""
    return str(request.param)


@pytest.fixture(scope="session")
def stock(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """Projects that several tests begin with."""
    return Stock(released, tmp_path_factory.mktemp("stock"))


@pytest.fixture
def owned(stock: Stock, version: str, tmp_path: Path, shape: str) -> Owned:
    """A project of a release, which its owner made their own."""
    return stock.owned(version, SHAPES[shape], tmp_path / "project")


@pytest.fixture
def updated(stock: Stock, version: str, tmp_path: Path, shape: str) -> Owned:
    """The same project after its update to what lies here, which is not committed."""
    return stock.updated(version, SHAPES[shape], tmp_path / "updated")


@pytest.fixture
def database(cluster: str, request: pytest.FixtureRequest) -> str:
    """The URL of a database of the test's own, which does not exist yet."""
    return f"{cluster.rpartition('/')[0]}/update_{abs(hash(request.node.name))}"


@pytest.fixture
def shape() -> str:
    """The answers of a project, unless a test takes several."""
    return "defaults"


def test_releases_are_versions_of_commits_in_the_history() -> None:
    for version, revision in RELEASES.items():
        assert VERSION.fullmatch(version), f"{version} is no version"
        assert re.fullmatch("[0-9a-f]{40}", revision), f"{version} needs the whole id of a commit"
        git("merge-base", "--is-ancestor", revision, "HEAD", at=REPOSITORY)


@pytest.mark.parametrize(("version", "shape"), tried())
def test_an_update_keeps_what_the_owner_wrote_and_every_event_on_its_way(
    owned: Owned, updated: Owned, cluster: str, database: str, version: str, shape: str
) -> None:
    agent, env = owned.files("src/my_agent/agent"), (owned.path / ".env").read_text()
    before = owned.files()
    env_of_trial = {"DATABASE_URL": database, "EVENT_LEASE": "1", "TIMERS": "{}"}
    owned.run(TRIAL, "before", **env_of_trial)

    after = updated.files()
    conflicts = conflicts_in(after)
    assert not conflicts, f"an update met the owner's lines in {conflicts}"
    assert not [name for name in after if name.endswith(".rej")]
    for name, line in lines_anywhere("my_agent", before):
        assert line in after[name], f"{name} lost {line!r}"
    assert updated.files("src/my_agent/agent") == agent, "the agent is its owner's, to the byte"
    assert "class RoomEnteredEvent" in after["src/my_agent/core/events.py"]
    assert HELLO in after["src/my_agent/core/deps.py"]
    assert '"/rooms": rooms' in after["src/my_agent/api/routes/__init__.py"]
    assert OURS in after["pyproject.toml"]
    assert (updated.path / ".env").read_text() == env
    assert not (updated.path / DELETED).exists(), "what was deleted stays deleted"
    assert "cover all 8 events" in updated.run(TRIAL, "after", **env_of_trial)
    if version == release_to_test(shape):
        tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGINS]
        touched = {f"tests/test_{name}.py" for name in TOUCHED}
        if shape == "defaults":
            updated.run(*tests, "--collect-only")
            touched |= quick_tests_of_the_agent(after)
            touched |= {f"tests/test_{name}.py" for name in TOUCHED_ONCE}
        updated.run(*tests, *sorted(touched), DATABASE_URL=cluster)


def quick_tests_of_the_agent(files: dict[str, str]) -> set[str]:
    """Return the modules of tests that import the agent, however far away, start no processes, and depend on answers.

    The others try code that an update leaves as it is in a new project.
    """
    code = {name: text for name, text in files.items() if name.endswith(".py")}
    closures = Closures(
        {name: name for name in code}, {name: text.encode() for name, text in code.items()}
    )
    return {
        name
        for name, text in code.items()
        if name.startswith("tests/test_")
        and is_quick(text)
        and not is_independent(short_name(name))
        and any(each.startswith("src/my_agent/agent/") for each in closures.reached({name}))
    }


def release_to_test(shape: str) -> str:
    """Return the release from which a shape's own tests run after the update: but for `agent/`, the code is the same."""
    return ENDS[[*SHAPES].index(shape) % len(ENDS)]


def test_lines_at_the_new_places_work_and_outlast_the_next_update(
    updated: Owned, cluster: str
) -> None:
    commit(updated.path, "Update")
    write_at_new_places(updated.path)
    written = updated.files()
    test = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGINS, "tests/test_places.py"]
    updated.run(*test, DATABASE_URL=cluster)

    with next_release(updated.template, beside_the_places):
        updated.update()

    after = updated.files()
    assert not conflicts_in(after)
    changed = {name for name in after if after[name] != written.get(name)}
    assert {f"src/my_agent/{name}" for name in BESIDE} <= changed, "the release changes these files"
    lines = [line for line in written["src/my_agent/resources.py"].splitlines() if "desk" in line]
    assert all(line in after["src/my_agent/resources.py"] for line in lines)
    updated.run(*test, DATABASE_URL=cluster)


def test_an_owner_who_takes_every_release_in_turn_meets_no_conflict(
    stock: Stock, cluster: str, database: str, tmp_path: Path
) -> None:
    first, *later = RELEASES
    owned = stock.owned(first, {}, tmp_path / "project")
    agent = owned.files("src/my_agent/agent")
    written = list(lines_anywhere("my_agent", owned.files()))
    env_of_trial = {"DATABASE_URL": database, "EVENT_LEASE": "1", "TIMERS": "{}"}
    owned.run(TRIAL, "before", **env_of_trial)

    for version in [*later, NEXT]:
        owned.copier("update", "--defaults", "--vcs-ref", version)
        after = owned.files()
        assert not conflicts_in(after), f"the update to {version} met the owner's lines"
        assert owned.files("src/my_agent/agent").items() >= agent.items(), version
        assert [name for name, line in written if line not in after[name]] == [], version
        commit(owned.path, f"Update to {version}")
        if version == FIRST_WITH_NEW_PLACES:
            write_at_new_places(owned.path)

    assert "cover all 8 events" in owned.run(TRIAL, "after", **env_of_trial)
    assert "/lobby" in owned.files()["src/my_agent/api/routes/__init__.py"]
    test = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGINS, "tests/test_places.py"]
    owned.run(*test, DATABASE_URL=cluster)


FIRST_WITH_NEW_PLACES = "0.3.0"

BESIDE = {
    "config.py": ("    # Sources\n", "    # Sources, and more\n"),
    "resources.py": ("OPEN_TIMEOUT: Seconds = 30.0", "OPEN_TIMEOUT: Seconds = 31.0"),
    "api/routes/__init__.py": ("Anybody can call them", "Anyone can call them"),
    "core/deps.py": (
        '"""Return the same dependencies for one',
        '"""Return these dependencies for one',
    ),
}
"""What a coming release may change near the places, by module."""


def beside_the_places(template: Path) -> None:
    """Change modules of the package near the places of their owner."""
    for name, (old, new) in BESIDE.items():
        [path] = (template / "template" / "src").glob(f"*/{name}*")
        assert old in path.read_text(), name
        path.write_text(path.read_text().replace(old, new))


@contextmanager
def next_release(template: Path, change: Callable[[Path], None]) -> Generator[None]:
    """Release a change of the template for the block."""
    change(template)
    commit(template, "Change it")
    git("tag", AFTER_NEXT, at=template)
    try:
        yield
    finally:
        git("tag", "--delete", AFTER_NEXT, at=template)
        git("reset", "--quiet", "--hard", NEXT, at=template)


@pytest.mark.parametrize("version", ENDS)
def test_where_both_changed_a_line_an_update_shows_both_and_merges_the_rest(
    owned: Owned, version: str
) -> None:
    runtime = owned.path / "src" / "my_agent" / "runtime.py"
    [old] = [
        line for line in runtime.read_text().splitlines() if line.startswith("async def open_")
    ]
    ours = f"{old}  # ours"
    runtime.write_text(runtime.read_text().replace(old, ours))
    commit(owned.path, "Change a line of the template")

    with next_release(owned.template, another_line):
        owned.update()

    after = owned.files()
    assert conflicts_in(after) == ["src/my_agent/runtime.py"], version
    text = after["src/my_agent/runtime.py"]
    blocks = re.findall("^<<<<<<< .*?^>>>>>>> .*?$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1, "each of the owner's other lines is merged"
    mine, _, theirs = blocks[0].partition("=======")
    assert ours in mine
    assert theirs.strip()
    assert "sources: Sources | None = None" in text
    assert ours not in text.replace(blocks[0], "")


def another_line(template: Path) -> None:
    """Change the line that the owner has changed."""
    [path] = (template / "template" / "src").glob("*/runtime.py")
    text = path.read_text()
    [old] = [line for line in text.splitlines() if line.startswith("async def open_")]
    path.write_text(text.replace(old, f"{old}  # theirs"))


def test_a_new_major_version_of_a_stateful_image_is_announced(version: str) -> None:
    unannounced = [
        f"{image} {new}"
        for image, new in new_majors(images_of(RELEASES[version]), images_of(None))
        if not is_announced(image, new, since=version)
    ]

    assert not unannounced, (
        f"data of older majors cannot be read: say in CHANGELOG.md what to do ({unannounced})"
    )


def test_only_another_major_version_is_new_and_only_a_sentence_announces_it() -> None:
    old = {("a.yaml", "postgres"): "17", ("a.yaml", "redis"): "7"}

    assert new_majors(old, {**old, ("b.yaml", "postgres"): "18"}) == []
    assert new_majors(old, {**old, ("a.yaml", "postgres"): "18"}) == [("postgres", "18")]
    assert IMAGE.findall("    image: postgres:18.1-alpine\n    image: valkey/valkey:9") == [
        ("postgres", "18"),
        ("valkey/valkey", "9"),
    ]


COMPOSE = ("compose.prod.yaml.jinja", "docker/docker-compose.yml.jinja")
IMAGE = re.compile(
    r"^ +image: (?:docker\.io/)?([a-z./]*(?:postgres|redis|valkey)[a-z]*):(\d+)", re.MULTILINE
)
"""A stateful image, and its major version."""

type Images = dict[tuple[str, str], str]
"""The major version of each stateful image by its file and name."""


def images_of(commit: str | None) -> Images:
    """Return the images of a commit, or of what lies here."""
    found: Images = {}
    for name in COMPOSE:
        if commit is None:
            text = (REPOSITORY / "template" / name).read_text()
        else:
            listed = git("ls-tree", "--name-only", commit, f"template/{name}", at=REPOSITORY)
            text = listed and git("show", f"{commit}:template/{name}", at=REPOSITORY)
        found |= {(name, image): major for image, major in IMAGE.findall(text)}
    assert found, "compose files have stateful images"
    return found


def new_majors(old: Images, new: Images) -> list[tuple[str, str]]:
    """Return the images that have another major version than they had."""
    return [
        (image, major)
        for (name, image), major in new.items()
        if old.get((name, image), major) != major
    ]


def is_announced(image: str, major: str, since: str) -> bool:
    """Tell whether the changelog has a sentence about an image since a release, or the update prints one."""
    changelog = (REPOSITORY / "CHANGELOG.md").read_text().partition(f"\n## {since} ")[0]
    message = (REPOSITORY / "variants" / "messages" / "after_update.jinja").read_text()
    return f"{image}:{major}" in changelog + message


def conflicts_in(files: dict[str, str]) -> list[str]:
    """Return the names of files with a conflict."""
    return [name for name, text in files.items() if re.search("^(<<<<<<<|>>>>>>>) ", text, re.M)]


def test_an_owners_loop_with_deprecated_names_handles_every_scope_in_order(
    released: Path, database: str, tmp_path: Path
) -> None:
    project = untouched(released, tmp_path / "project", "0.1.0", {"trigger": "immediate"})
    handle(project, 0, 1, 7, url=database)  # by the loop of 0.1.0, which lacks two of the names
    (project.path / "src" / "my_agent" / "agent" / "loop.py").write_text(LOOP)
    commit(project.path, "Write our own loop")

    project.update()

    printed = handle(project, 7, EVENTS, EVENTS, url=database)
    covered, held = report_in(printed)
    assert covered == published(EVENTS), "each scope's events are acted on once, in order"
    assert not any(held.values())
    for old, new in OLD_NAMES.items():
        warning = (
            rf"agent/loop\.py:\d+: DeprecationWarning: Reflex: {old} is deprecated .*: use {new}\."
        )
        assert re.search(warning, printed), f"no warning of {old} names {new} and the loop's line"


@pytest.mark.parametrize("turn", range(TURNS))
def test_an_untouched_agent_of_a_release_handles_every_scope_to_the_end(
    released: Path, releases: Releases, version: str, turn: int, database: str, tmp_path: Path
) -> None:
    """One turn of each release is an update by Copier. It shows that the other turns need none."""
    answers = agents_of(version)[turn] | {"event_types": VALUES["event_types"][0]}
    before = releases.before(version, answers)
    after = releases.after(before, answers)
    project = Owned(tmp_path / "project", released)
    by_copier = turn == [*RELEASES].index(version) % TURNS
    if by_copier:
        untouched(released, project.path, version, answers)
        assert bytes_of(project) == before
    else:
        write_all(project.path, before)
    handle(project, 0, 4, 7, url=database)

    if by_copier:
        project.update()
        assert bytes_of(project) == after
    else:
        write_all(project.path, after)

    covered, held = report_in(handle(project, 7, EVENTS, EVENTS, url=database))
    assert all(covered.values()), f"no action in some scope: {covered}"
    assert {scope: covered[scope] + held[scope] for scope in SCOPES} == published(EVENTS)


def bytes_of(project: Owned) -> dict[str, bytes]:
    """Return what the files say that git knows, the answers file aside."""
    files = project.files()
    return {name: text.encode() for name, text in files.items() if name != ANSWERS_FILE}


def test_the_untouched_agents_have_every_loop_trigger_and_kind_of_locks_of_each_release() -> None:
    for version, revision in RELEASES.items():
        chosen = agents_of(version)
        for question in BEHAVIOUR:
            offered = set(
                offered_in(git("show", f"{revision}:copier.yml", at=REPOSITORY))[question]
            )
            missing = offered - {answers[question] for answers in chosen}
            assert not missing, f"no agent of {version} has {question}={missing}: raise TURNS"


def agents_of(version: str) -> list[Answers]:
    """Return answers in which each loop, trigger and kind of locks of a release is at least once.

    Which of them meet is another choice for each release, so every two meet after some releases.
    """
    offered = offered_in(git("show", f"{RELEASES[version]}:copier.yml", at=REPOSITORY))
    number = [*RELEASES].index(version)
    return [
        {
            question: offered[question][(turn + place * (1 + number)) % len(offered[question])]
            for place, question in enumerate(BEHAVIOUR)
        }
        for turn in range(TURNS)
    ]


def report_in(printed: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the events of each scope that were acted on, and those that are held."""
    [found] = re.findall("^report: (.*)$", printed, re.MULTILINE)
    report = json.loads(found)
    return report["covered"], report["held"]


def published(count: int) -> dict[str, list[str]]:
    """Return the ids of the events of each scope, in their order."""
    return {scope: [f"{scope}-{number}" for number in range(count)] for scope in SCOPES}


def is_quick(module: str) -> bool:
    """Tell whether a module of tests starts no processes."""
    return not any(sign in module for sign in STARTS_PROCESSES)


@pytest.mark.parametrize("version", ENDS)
def test_another_answer_on_update_changes_what_it_says_and_not_the_agent(owned: Owned) -> None:
    agent = owned.files("src/my_agent/agent")

    said = owned.update(
        locks="postgres", ci="none", event_types="[job.done]", loop="batch", trigger="immediate"
    )

    after = owned.files()
    assert owned.files("src/my_agent/agent") == agent
    assert "whatever you answered for loop and trigger" in " ".join(said.split())
    assert "pg_try_advisory_lock" in after["src/my_agent/infra/locks.py"]
    assert not [name for name in after if name.startswith(".github")]
    events = after["src/my_agent/core/events.py"]
    assert "JobDoneEvent" in events
    assert "RoomEnteredEvent" in events
    assert "ErrorReportedEvent" not in events
    assert not re.search("^<<<<<<< ", "\n".join(after.values()), re.MULTILINE)


CONSOLE = """
import asyncio, httpx2
from my_agent.api.app import app

async def ask():
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://example.com") as client:
        return (await client.get("/console")).status_code

print("console:", asyncio.run(ask()))
"""
"""Prints how a service answers a stranger who looks for the console."""
ABSENT, ASKS_FOR_A_KEY = 404, 303
PRODUCTION = {
    "ENVIRONMENT": "production",
    "DEFAULT_MODEL": "openai:gpt-5-mini",
    "OPENAI_API_KEY": "not-needed",
    "DATABASE_URL": "postgresql+asyncpg://nobody:nothing@127.0.0.1:1/none",
    "WEBHOOK_SECRETS": '{"github": "whsec_c2VjcmV0"}',
}
BEFORE_THE_CONSOLE = "0.3.0"
PUBLISHES, READS = (
    json.dumps({"ci": {"key": "c" * 24, "roles": roles}}) for roles in (["publish"], ["read"])
)


@pytest.mark.usefixtures("environment")
def test_after_an_update_production_has_a_console_only_where_a_key_has_a_role_for_it(
    released: Path, tmp_path: Path
) -> None:
    project = untouched(released, tmp_path / "project", BEFORE_THE_CONSOLE, {})

    def answers(**keys: str) -> int:
        printed = project.run("-c", CONSOLE, **PRODUCTION, **keys)
        return int(printed.partition("console: ")[2].partition("\n")[0])

    assert answers(API_KEYS="k" * 24) == ABSENT
    project.update()

    assert answers(API_KEYS="k" * 24) == ABSENT
    assert answers(API_CLIENTS=PUBLISHES) == ABSENT
    assert answers(API_KEYS="k" * 24, API_CLIENTS=READS) == ASKS_FOR_A_KEY
    assert answers(API_KEYS="k" * 24, CONSOLE="on") == ASKS_FOR_A_KEY
    assert answers(API_CLIENTS=READS, CONSOLE="off") == ABSENT


def test_check_update_says_whether_there_is_a_newer_release(owned: Owned, updated: Owned) -> None:
    owned.copier("check-update", "--quiet", code=2)

    commit(updated.path, "Update")

    updated.copier("check-update", "--quiet", code=0)


@pytest.mark.parametrize("version", ENDS[-1:])
def test_recopy_writes_over_the_agent(owned: Owned) -> None:
    owned.copier("recopy", "--defaults", "--overwrite", "--quiet")

    assert (
        "run_agent_loop" in (owned.path / "src" / "my_agent" / "agent" / "__init__.py").read_text()
    )


@pytest.mark.parametrize("version", ENDS[-1:])
def test_a_new_question_answers_itself(owned: Owned) -> None:
    def ask(template: Path) -> None:
        with (template / "copier.yml").open("a") as questions:
            questions.write('\nweather:\n  type: str\n  help: "?"\n  default: fine\n')

    with next_release(owned.template, ask):
        owned.update()

    assert "weather: fine" in (owned.path / ".copier-answers.yml").read_text()
