"""The console in a real browser over a real lake: what people see, type, click and drop.

The browser is Debian's Chromium (`apt-get install chromium`), driven by Playwright. Whatever a test does, no script
may fail, nothing may break the page's policy, and nothing may be asked of another server.
"""

from __future__ import annotations

import base64
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import uvicorn
from cost_lines import ledger, line
from gallery import Piece, Raw, picture, put, rows_of, save
from playwright.sync_api import Browser, Page, expect, sync_playwright

from raycluster.lake.runs import Run
from raycluster.read._stores import store_of
from raycluster.row import object_id
from raycluster.serve.context import Context
from raycluster.serve.settings import Settings
from raycluster.serve.web import application

pytestmark = pytest.mark.slow  # a browser has to start

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 30_000  # of a machine that does much else
expect.set_options(timeout=PATIENCE_MS)
VIEWS = ("search", "datasets", "runs", "quarantine", "costs")
EMPTY = {"search": "No dataset yet", "datasets": "No dataset yet", "runs": "Nothing has run yet"}
EMPTY |= {"quarantine": "No dataset yet", "costs": "No costs yet"}
EVIL = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> the river\'s end'
# Drop a file onto the box, as a hand does.
DROP = """([name, type, base64]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0))], name, { type }));
    document.querySelector(".question").dispatchEvent(
        new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""
# What is shown and has no name that a screen reader could say.
NAMELESS = """() => [...document.querySelectorAll("button, a, input, select, [role]")]
    .filter((one) => one.checkVisibility() && !one.matches("[role=status], [role=alert]"))
    .filter((one) => !(one.getAttribute("aria-label") || one.innerText?.trim() || one.labels?.[0]?.innerText.trim()))
    .map((one) => one.outerHTML)"""
CHART = "globalThis.Chart?.getChart(document.querySelector('canvas'))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@contextmanager
def serving(context: Context) -> Iterator[str]:
    """Serve on a free port; yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = uvicorn.Server(uvicorn.Config(application(context), log_level="error", lifespan="off"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        running.should_exit = True
        thread.join()


@pytest.fixture
def server(context: Context) -> Iterator[str]:
    with serving(context) as address:
        yield address


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    """A page of a window 1280 wide, that fails the test if a script fails or reaches out."""
    window = browser.new_context(viewport={"width": 1280, "height": 800}, base_url=server)
    window.grant_permissions(["clipboard-read", "clipboard-write"])
    found = window.new_page()
    found.set_default_timeout(PATIENCE_MS)
    wrong: list[str] = []
    found.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    found.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
    found.on(
        "request", lambda asked: None if asked.url.startswith((server, "blob:", "data:")) else wrong.append(asked.url)
    )
    yield found
    hacked = found.evaluate("window.hacked")
    window.close()
    assert not wrong
    assert hacked is None


def until(page: Page, script: str) -> None:
    """Wait for what a script says to become true; Playwright's own way would be `eval`, which the policy forbids."""
    give_up = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(script):
        assert time.monotonic() < give_up, script
        page.wait_for_timeout(50)


def hits(page: Page):
    return page.get_by_role("listbox", name="Hits").get_by_role("option")


def test_without_a_question_there_are_rows_to_look_through(page):
    page.goto("/")
    expect(page).to_have_title("Search · raycluster")
    expect(hits(page)).to_have_count(15)
    sky = page.get_by_role("option", name="blå himmel #1.png")
    sky.scroll_into_view_if_needed()
    expect(sky.locator("img")).to_be_visible()
    assert sky.locator("img").get_attribute("src").startswith("blob:")
    assert sky.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 32


def test_words_find_hits_that_one_walks_through_with_the_keyboard(page):
    page.goto("/#/search?mode=text")
    expect(hits(page)).to_have_count(15)
    page.keyboard.press("/")
    page.keyboard.type("river storm bread")
    page.keyboard.press("Enter")
    expect(hits(page)).to_have_count(3)
    expect(hits(page).first.locator("mark").first).to_be_visible()
    assert {"river", "storm", "bread"} == set(page.locator("mark").all_inner_texts())
    page.keyboard.press("ArrowDown")
    expect(hits(page).nth(0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(hits(page).nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    detail = page.get_by_role("complementary", name="Detail")
    second = hits(page).nth(1).locator(".name").inner_text()
    expect(detail.get_by_role("heading", name=second)).to_be_visible()
    page.keyboard.press("ArrowRight")
    third = hits(page).nth(2).locator(".name").inner_text()
    expect(detail.get_by_role("heading", name=third)).to_be_visible()
    address = page.url
    page.keyboard.press("Escape")
    expect(detail).to_have_count(0)
    expect(hits(page).nth(2)).to_be_focused()
    page.goto("/")
    page.goto(address)
    expect(detail.get_by_role("heading", name=third)).to_be_visible()
    expect(page.get_by_role("textbox", name="What to look for")).to_have_value("river storm bread")


def test_the_player_starts_at_the_hit(page, ids):
    page.goto(f"/#/search?open={ids['tone.wav@1']}")
    audio = page.locator("audio")
    expect(audio).to_be_visible()
    until(page, "document.querySelector('audio').readyState > 0")
    assert audio.evaluate("audio => [audio.currentTime, audio.duration]") == [1, 2]
    audio.evaluate("audio => { audio.muted = true; return audio.play(); }")
    until(page, "document.querySelector('audio').currentTime > 1.2")
    expect(page.get_by_role("complementary")).to_contain_text("0:01\u20130:02")


def test_a_picture_is_shown_whole_and_leads_to_more_like_it(page, ids):
    page.goto(f"/#/search?open={ids['blå himmel #1.png']}")
    whole = page.locator("img.whole")
    expect(whole).to_be_visible()
    assert whole.evaluate("image => image.decode().then(() => image.naturalWidth)") == 320
    page.get_by_role("button", name="More like this").click()
    expect(page.get_by_text("like blå himmel #1.png")).to_be_visible()
    expect(hits(page).first).to_contain_text("1.000")  # itself
    expect(page.get_by_role("complementary")).to_have_count(0)


def test_a_row_that_is_not_there_is_said_so_and_closed(page):
    page.goto("/#/search?open=nothing")
    detail = page.get_by_role("complementary", name="Detail")
    expect(detail.get_by_role("alert")).to_contain_text("nothing")
    detail.get_by_role("button", name="Close").click()
    expect(detail).to_have_count(0)
    expect(hits(page)).to_have_count(15)


def test_facets_count_and_filter(page):
    page.goto("/")
    image = page.get_by_role("checkbox", name="image 7")
    image.check()
    expect(hits(page)).to_have_count(7)
    assert "modality=image" in page.url
    page.get_by_role("checkbox", name="audio 2").check()
    expect(hits(page)).to_have_count(9)
    page.get_by_role("checkbox", name="gold 1").check()
    expect(hits(page)).to_have_count(1)
    expect(page.get_by_role("option", name="gold.png")).to_be_visible()
    page.go_back()
    expect(hits(page)).to_have_count(9)


def test_several_datasets_are_asked_at_once(page):
    page.goto("/#/search?mode=text&q=bread vault")
    expect(hits(page)).to_have_count(1)
    page.locator("summary", has_text="gallery").click()
    menu = page.get_by_role("group", name="Datasets")
    menu.get_by_role("checkbox", name="other").check()
    expect(hits(page)).to_have_count(2)
    page.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    vault = page.get_by_role("option", name="secret.txt")
    expect(vault).to_contain_text("other")
    vault.click()
    expect(page.get_by_role("complementary", name="Detail")).to_contain_text("the vault is open")
    expect(page.get_by_text("2 datasets")).to_be_visible()


def test_a_filter_in_sql_and_what_is_wrong_with_it(page):
    page.goto("/")
    box = page.get_by_role("textbox", name="Filter in SQL")
    box.fill("position = 2")
    box.press("Enter")
    expect(hits(page)).to_have_count(1)
    box.fill("positon = 2")
    box.press("Enter")
    said = page.get_by_role("alert")
    expect(said).to_contain_text("position")
    expect(box).to_have_attribute("aria-invalid", "true")
    box.fill("")
    box.press("Enter")
    expect(hits(page)).to_have_count(15)


@pytest.mark.parametrize(
    ("name", "kind", "field"), [("snow.png", "image/png", "image"), ("dog.wav", "audio/wav", "audio")]
)
def test_a_file_dropped_onto_the_box_is_asked_for(page, name, kind, field):
    content = picture("white")
    page.goto("/")
    expect(hits(page)).to_have_count(15)
    with page.expect_request(lambda asked: asked.method == "POST") as sent:
        page.evaluate(DROP, [name, kind, base64.b64encode(content).decode()])
    asked = sent.value.post_data_json
    assert base64.b64decode(asked[field]) == content
    assert not asked.keys() & {"text", "id"}
    expect(page.get_by_text(name, exact=True)).to_be_visible()
    # this lake's rows come from no encoder; to find that out, decoders are imported first
    expect(page.get_by_role("alert")).to_be_visible(timeout=120_000)
    page.get_by_role("button", name=f"Remove {name}").click()
    expect(hits(page)).to_have_count(15)


def test_a_file_that_is_neither_is_refused_at_once(page):
    page.goto("/")
    page.locator("input[type=file]").set_input_files({"name": "x.zip", "mimeType": "application/zip", "buffer": b"PK"})
    expect(page.get_by_role("alert")).to_have_text("x.zip is neither a picture nor a sound")


def test_whatever_a_corpus_holds_stays_text(page, lake, tmp_path):
    raw = Raw(b"x", "text", "text/plain", (Piece(EVIL, label=EVIL),))
    name = "<img src=x onerror=window.hacked=1>.txt"
    files = save(tmp_path / "evil", {name: raw})
    put(lake, "evil", rows_of(files, {name: raw}))
    bad = {"object_id": object_id(EVIL, "1"), "uri": f"file:///{EVIL}", "modality": EVIL, "position": 0, "stage": EVIL}
    lake.quarantine("evil").add([{**bad, "code": "corrupt", "message": EVIL}], run_id=EVIL, workload=EVIL)
    at = datetime.now(UTC)
    lake.runs().put(
        Run(run_id="evil", workload=EVIL, dataset="evil", status="failed", started_at=at, summary={"message": EVIL})
    )
    ledger(lake.uri, line(team=EVIL, stage=EVIL, started_at=at))
    (row,) = lake.table("evil").open().to_table(columns=["id"])["id"].to_pylist()
    (bad_id,) = [one["id"] for one in lake.quarantine("evil").rows()]
    for place in (
        f"search?in=evil&q=river&mode=text&explain=1&open={row}",
        f"search?in=evil&q={EVIL}&mode=text",
        f"search?in=evil&where={EVIL}",
        "datasets?name=evil",
        "runs?run=evil",
        f"quarantine?of=evil&bad={bad_id}",
        "costs?by=team",
        f"costs?by=stage&only=team={EVIL}",
    ):
        page.goto("/")
        page.goto(f"/#/{place}")
        page.wait_for_load_state("networkidle")
        if "where=" not in place:
            expect(page.get_by_text("onerror").locator("visible=true").first).to_be_visible()
        assert page.evaluate("window.hacked") is None, place
    assert page.locator("img[src=x]").count() == 0


def test_who_is_unknown_is_asked_for_a_token(page, told):
    page.goto("/")
    page.get_by_label("Token", exact=True).fill("bob")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(hits(page)).to_have_count(7)  # bob sees pictures only
    red = page.get_by_role("option", name="red.png")
    expect(red.locator("img")).to_be_visible()
    assert page.evaluate("[sessionStorage.length, Object.keys(localStorage).length, document.cookie]") == [1, 0, ""]
    page.reload()
    expect(hits(page)).to_have_count(7)
    page.get_by_role("button", name="Forget the token").click()
    expect(page.get_by_role("dialog", name="Who are you?")).to_be_visible()
    page.get_by_label("Token", exact=True).fill("dan")
    page.keyboard.press("Enter")
    expect(hits(page)).to_have_count(1)
    expect(page.get_by_text("the vault is open")).to_be_visible()


def test_a_dataset_with_its_history(page):
    page.goto("/#/datasets?name=gallery")
    expect(page.get_by_role("heading", name="gallery")).to_be_visible()
    expect(page.get_by_role("table", name="Versions")).to_contain_text("live")
    expect(page.get_by_role("table", name="Columns").get_by_role("row")).to_have_count(18)
    expect(page.locator(".tiles")).to_contain_text("15")
    page.get_by_role("link", name="run1").first.click()
    expect(page.get_by_role("complementary", name="Run")).to_contain_text("run1")


def test_a_live_run_moves(page, lake):
    started = datetime.now(UTC) - timedelta(seconds=20)
    lake.runs().put(Run(run_id="run2", workload="w", dataset="gallery", status="running", started_at=started))
    told = {"objects": 10, "rows": 40, "bad": 1, "read_bytes": 10**6, "seconds": 20.0, "cost_usd": 0.25}
    stages = {"image": {"rows": 40, "seconds": 8.0, "rate": 5.0}}
    lake.progress().put("run2", {**told, "done": 4, "left_seconds": 30.0, "stages": stages})
    page.goto("/#/runs")
    page.get_by_role("row", name="run2").press("Enter")
    run = page.get_by_role("complementary", name="Run")
    expect(run).to_contain_text("40% 4 of 10 objects")
    expect(run).to_contain_text("30 s left")
    expect(run.get_by_role("table", name="Stages")).to_contain_text("image")
    lake.progress().put("run2", {**told, "done": 9, "left_seconds": 2.0, "stages": stages})
    expect(run).to_contain_text("90% 9 of 10 objects")
    ended = {"rows": 99, "quarantined": 1, "codes": {"corrupt": 1}, "seconds": 22.0}
    done = Run(run_id="run2", workload="w", dataset="gallery", status="done", started_at=started, summary=ended)
    lake.runs().put(done)
    expect(run).to_contain_text("99")
    expect(run.get_by_role("link", name="corrupt 1")).to_be_visible()


def test_quarantine_by_code_with_a_preview(page, lake, tmp_path):
    file = tmp_path / "half.png"
    file.write_bytes(picture("teal")[:-20])
    uri = file.as_uri()
    version = store_of(uri).find(uri).version
    bad = {"object_id": object_id(uri, version), "uri": uri, "modality": "image", "position": 0, "stage": "image"}
    lake.quarantine("gallery").add([{**bad, "code": "truncated", "message": "it ends early"}], run_id="r", workload="w")
    page.goto("/#/quarantine")
    expect(page.get_by_role("table", name="Quarantine").get_by_role("row")).to_have_count(4)
    page.get_by_role("button", name="truncated 1").click()
    expect(page.get_by_role("table", name="Quarantine").get_by_role("row")).to_have_count(2)
    page.get_by_role("row", name="half.png").click()
    detail = page.get_by_role("complementary", name="Quarantined")
    expect(detail).to_contain_text("it ends early")
    expect(detail.locator("img.whole")).to_be_visible()
    page.keyboard.press("Escape")
    expect(detail).to_have_count(0)
    page.goto("/#/quarantine?code=unsupported")
    page.get_by_role("row", name="b.xyz").click()
    expect(page.get_by_text("No preview")).to_be_visible()


def test_costs_are_cut_into_slices(page, lake):
    now = datetime.now(UTC)
    ledger(
        lake.uri,
        line(nanousd=3_000_000_000, started_at=now, stage="video"),
        line(nanousd=1_000_000_000, started_at=now - timedelta(days=4), stage="audio"),
        line(nanousd=2_000_000_000, started_at=now, team="archive"),
    )
    page.goto("/#/costs")
    table = page.get_by_role("table", name="Costs by team")
    expect(table.get_by_role("row")).to_have_count(3)
    expect(table.get_by_role("row").nth(1)).to_contain_text("$4.00")
    expect(page.locator(".tiles")).to_contain_text("$6.00")
    chart = page.get_by_role("img", name=re.compile("Costs by team, day by day"))
    expect(chart).to_be_visible()
    until(page, f"{CHART}?.data.labels.length === 5")
    assert page.evaluate(f"{CHART}.data.datasets.map((one) => [one.label, one.data])") == [
        ["discovery", [1, 0, 0, 0, 3]],
        ["archive", [0, 0, 0, 0, 2]],
    ]
    x, y = page.evaluate(f"(({{ x, y }}) => [x, y + 10])({CHART}.getDatasetMeta(0).data[4])")
    chart.click(position={"x": x, "y": y})
    expect(page.get_by_role("button", name="Remove team discovery")).to_be_visible()
    page.get_by_label("by", exact=True).select_option("stage")
    stages = page.get_by_role("table", name="Costs by stage")
    expect(stages.get_by_role("row")).to_have_count(3)
    page.get_by_label("Time", exact=True).select_option("24h")
    expect(stages.get_by_role("row")).to_have_count(2)
    expect(page.locator(".tiles")).to_contain_text("$3.00")


def test_keys_lead_everywhere(page):
    page.goto("/")
    for key, title in (("d", "Datasets"), ("r", "Runs"), ("q", "Quarantine"), ("c", "Costs"), ("s", "Search")):
        page.keyboard.press("g")
        page.keyboard.press(key)
        expect(page).to_have_title(f"{title} · raycluster")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.keyboard.press("/")
    expect(page.get_by_role("textbox", name="What to look for")).to_be_focused()


def test_light_and_dark(page):
    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.emulate_media(color_scheme="light")
    page.goto("/")
    light = background()
    page.emulate_media(color_scheme="dark")
    dark = background()
    assert light != dark
    page.get_by_role("button", name="Light theme").click()
    assert background() == light
    page.reload()
    assert background() == light
    page.keyboard.press("t")
    assert background() == dark


@pytest.mark.parametrize("view", VIEWS)
def test_everything_has_a_name_and_fits_a_phone(page, view):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"/#/{view}")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(NAMELESS) == []
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(5)


def test_a_lake_without_anything_says_what_to_do(browser, tmp_path):
    context = Context.open(Settings(lake=str(tmp_path / "empty")))
    with serving(context) as address:
        window = browser.new_context(base_url=address)
        page = window.new_page()
        for view, said in EMPTY.items():
            page.goto(f"/#/{view}")
            expect(page.get_by_role("heading", name=said)).to_be_visible()
        window.close()
    context.close()


def test_a_server_that_is_away_is_said_and_asked_again(page):
    page.goto("/")
    expect(hits(page)).to_have_count(15)
    page.route("**/v1/**", lambda route: route.abort())
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(page.get_by_role("alert")).to_contain_text("the server does not answer")
    page.unroute("**/v1/**")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("table", name="Runs")).to_contain_text("run1")
