//! The operator's page in a real Chromium: figures that move under load, a turn found by its trace
//! id, a call that is agreed to, a version that is rolled back; on a phone and in two
//! languages, with nothing from elsewhere. With `UPDATE_SCREENSHOTS=1` it takes the pictures of
//! `docs/operations.md`.

use std::path::Path;

use minigate_tests::{
    browser::{Browser, PATIENCE},
    client::KEY,
    hosts::Host,
    tools::{self, Tools},
    turns::Person,
    until,
    upstream::TOKEN,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{
    Scenario, Scene, scenarios,
    stage::{OPERATORS, ask, id_of, wants},
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![an_operator_works_with_the_page, the_page_is_served_strictly];
    // A browser starts slowly on a machine that is busy with the rest of these tests.
    all.iter_mut().for_each(|scenario| scenario.limit *= 4);
    all
}

const CONFIGURATION: &str = r#"
models:
  fast: {kind: openclaw, side_effects: none}
profiles:
  qa_v1: {model: fast}
  qa_v2: {model: fast, system_prompt: 'Be brief.'}
  till_v1: {model: fast, tools: [close]}
routing:
  qa: {profile: qa_v1, rollout: {to: qa_v2, steps: [{percent: 50, at_least: 1h, turns: 1000}]}}
  till: till_v1
environments:
  prod: {allowed_profiles: [qa_v1, qa_v2, till_v1]}
tools:
  close:
    description: Closes the till.
    parameters: {type: object, properties: {order: {type: string}, how: {type: string}}, required: [order]}
    class: write
    approve: operator
    url: '{TOOLS}/close'
    secret: '${TOOLS_KEY}'
"#;

/// A host, its tools and people who use it all the time.
struct Show {
    host: Host,
    yaml: String,
    tools: Tools,
    load: JoinHandle<()>,
}

impl Show {
    async fn start(scene: &Scene) -> Self {
        let tools = Tools::start().await;
        let yaml = CONFIGURATION.replace("{TOOLS}", &tools.url);
        let settings = [
            ("API_KEY", KEY),
            ("ADMIN_KEY", OPERATORS[0]),
            ("OPENCLAW_GATEWAY_URL", scene.upstream().url.as_str()),
            ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
            ("TOOLS_KEY", tools::SECRET),
            ("SESSION_SECRET", "session-secret-canary-9e77"),
            ("RATE_LIMIT_PER_MINUTE", "0"),
            ("RATE_LIMIT_PER_ADDRESS", "0"),
            ("ABUSE_PROTECTION", "off"),
            ("MAX_CONCURRENCY", "0"),
        ];
        let host = Host::start_changeable(scene.kind, &[("page.yaml", &yaml)], &settings).await;
        let person = Person::new(&host.url);
        let load = tokio::spawn(async move {
            for number in 0.. {
                // Every ninth fails, so that there is something to see.
                let failure = if number % 9 == 8 { "[[up:fail=provider_error]]" } else { "[[up:slow=20]]" };
                let mut body = ask("qa", &format!("page load {failure}[[up:text=好的，已经为您查到了]]"));
                // Both versions are used, by different people, and fail as often.
                body["userId"] = json!(format!("user-{}", number % 10));
                let _ = person.send("POST", "/v1/mini/ask", &[], Some(&body)).await;
            }
        });
        Self { host, yaml, tools, load }
    }

    async fn stop(self) {
        self.load.abort();
        self.host.stop().await;
    }
}

/// Takes a picture for the documentation, where somebody wants new ones; else it must be there.
async fn picture(browser: &Browser, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images").join(format!("{name}.png"));
    if std::env::var_os("UPDATE_SCREENSHOTS").is_some() {
        std::fs::write(&path, browser.screenshot().await).expect("docs/images");
    }
    assert!(path.is_file(), "{}: run this test with UPDATE_SCREENSHOTS=1", path.display());
}

/// Says yes to the question that a button asks.
async fn agree(browser: &Browser) {
    browser.wait_for("#confirm[open]").await;
    browser.click("#confirm-yes").await;
}

async fn log_in(browser: &Browser, host: &Host) {
    browser.open(&format!("{}/admin", host.url)).await;
    browser.wait_for("#key").await;
    browser.write("#key", "not-a-key\u{E007}").await;
    browser.wait_until("a refusal", async || !browser.text("#login-failed").await.is_empty()).await;
    browser.write("#key", &format!("{}\u{E007}", OPERATORS[0])).await;
    browser.wait_for("article[data-profile=qa_v1] svg.plot path.line").await;
}

/// What needs somebody is one line, so that nothing moves away from under a finger; all of it is
/// a click away.
async fn attention_keeps_its_place(browser: &Browser) {
    let height = async || browser.run("return document.getElementById('attention').offsetHeight", &[]).await;
    let much = async || browser.run("return document.querySelectorAll('#findings a').length", &[]).await;
    let one_line = height().await;
    browser.wait_until("two profiles that fail", async || much().await.as_u64() >= Some(2)).await;
    assert_eq!(height().await, one_line);
    browser.click("#worst").await;
    browser.wait_for("#findings a").await;
    assert_eq!(height().await, one_line, "the list lies above what follows");
    browser.click("#worst").await;
}

/// Two different readings of what a profile has counted.
async fn figures_move(browser: &Browser) {
    let read = async || browser.text("article[data-profile=qa_v1] .totals").await;
    let first = read().await;
    browser
        .wait_until("other figures", async || !matches!(read().await, now if now == first || now.is_empty()))
        .await;
    // A line is drawn and not only a point.
    let drawn = "return [...document.querySelectorAll('article[data-profile=qa_v1] svg.plot path.line.a')].every((one) => \
                 one.getAttribute('d').includes('L'))";
    browser.wait_until("lines", async || browser.run(drawn, &[]).await == true).await;
}

async fn find_a_turn(scene: &Scene, show: &Show, browser: &Browser) {
    let trace = format!("page-{}-1710000123456", scene.kind.name());
    let answer = Person::new(&show.host.url)
        .ask(&[("x-trace-id", &trace)], &ask("qa", "hello page [[up:slow=20]]"))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    browser.click("#tab-turns").await;
    browser.write("#trace", &trace).await;
    let found = async || {
        browser.click("#search button").await;
        browser.wait_for("#story").await;
        browser.run("return document.querySelector('#story')?.dataset.found > 0", &[]).await == true
    };
    browser.wait_until("the turn's record", found).await;
    browser.wait_for("#story [data-what=profile]").await;
    let story = browser.text("#story").await;
    assert!(story.contains("qa_v") && story.contains("attempts"), "{story}");
    assert_eq!(browser.text("#replay").await, format!("minigate replay {trace}"));
    browser.wait_for("#story svg.timeline rect").await;
}

async fn approve_a_write(show: &Show, browser: &Browser) {
    let (person, order) = (Person::new(&show.host.url), "12345678901234567890-page");
    let asked = person.ask_keyed("page-1", &wants("till", "close", order, "")).await;
    assert_eq!(asked.json()["state"], "needs_approval", "{}", asked.text);
    browser.click("#tab-approvals").await;
    browser.wait_for("pre.exact").await;
    let exact = browser.text("pre.exact").await;
    let arguments: Value = serde_json::from_str(&exact).expect("what is shown is JSON");
    assert_eq!(arguments["order"], order);
    assert_eq!(show.tools.calls(order), [], "nothing is sent before somebody agrees");
    browser.click("[id^=approve-]").await;
    // A no to the question is a no.
    browser.wait_for("#confirm[open]").await;
    browser.click("#confirm-no").await;
    assert_eq!(show.tools.calls(order), []);
    browser.click("[id^=approve-]").await;
    agree(browser).await;
    let done = person.until(&id_of(&asked), &["done", "failed"]).await;
    assert_eq!((&done["state"], show.tools.times_done(order)), (&json!("done"), 1), "{done}");
    browser
        .wait_until("an empty list", async || {
            browser.run("return document.querySelector('pre.exact') === null", &[]).await == true
        })
        .await;
}

/// Whether a word is in the ledger, which gives its lines in parts.
async fn is_in_the_ledger(operator: &Person, word: &str) -> bool {
    let mut after = 0;
    loop {
        let lines = operator.get(&format!("/v1/admin/audit?after={after}")).await.text;
        if lines.contains(word) {
            return true;
        }
        let last = lines.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
        match last.and_then(|line| line["seq"].as_u64()) {
            Some(number) => after = number,
            None => return false,
        }
    }
}

async fn roll_back(show: &Show, browser: &Browser) {
    browser.click("#tab-rollouts").await;
    browser.wait_for("[data-intent=qa][data-state=running] svg.pair").await;
    browser.click("#roll_back-qa").await;
    agree(browser).await;
    browser.wait_for("[data-intent=qa][data-state=rolled_back]").await;
    let operator = Person::with_key(&show.host.url, OPERATORS[0]);
    let rollouts = operator.get("/v1/admin/rollouts").await.json();
    assert_eq!(rollouts["rollouts"][0]["state"], "rolled_back", "{rollouts}");
    let ledger = async || is_in_the_ledger(&operator, r#""order":"roll_back""#).await;
    until("its record", PATIENCE, ledger).await;
}

/// Another configuration is taken, compared with the one before, and given up again.
async fn back_to_the_configuration_before(show: &Show, browser: &Browser) {
    let operator = Person::with_key(&show.host.url, OPERATORS[0]);
    let running =
        async || operator.get("/version").await.json()["config"].as_str().unwrap_or_default().to_owned();
    let before = running().await;
    // Of what a host was deployed with, the edge has no text: it is remembered from here on.
    let body = json!({"text": show.yaml, "note": "as deployed"});
    let taken = operator.send("PUT", "/v1/admin/config", &[], Some(&body)).await.expect("an answer");
    assert_eq!((taken.status, running().await), (200, before.clone()), "{}", taken.text);
    let text = show.yaml.replace("Be brief.", "Be very brief.");
    let body = json!({"text": text, "note": "shorter answers"});
    let taken = operator.send("PUT", "/v1/admin/config", &[], Some(&body)).await.expect("an answer");
    assert_eq!(taken.status, 200, "{}", taken.text);
    until("the new one", PATIENCE, async || running().await != before).await;
    browser.click("#tab-config").await;
    browser.click(&format!("tr[data-version='{before}'] a")).await;
    browser.wait_for("#comparison .added").await;
    assert!(browser.text("#comparison .removed").await.contains("Be very brief."));
    assert!(browser.text("#comparison .added").await.contains("Be brief."));
    picture(browser, "admin-config").await;
    browser.click("#back").await;
    agree(browser).await;
    until("the one before", PATIENCE, async || running().await == before).await;
}

const TABS: [&str; 7] = ["overview", "rollouts", "approvals", "turns", "feedback", "queue", "config"];

/// Every section fits a phone, in both languages.
async fn on_a_phone(browser: &Browser) {
    browser.resize(360, 800, true).await;
    for (language, overview) in [("zh-CN", "总览"), ("en", "Overview")] {
        if browser.run("return document.documentElement.lang", &[]).await != language {
            browser.click("#language").await;
        }
        for tab in TABS {
            browser.click(&format!("#tab-{tab}")).await;
            browser.wait_for(&format!("#tab-{tab}[aria-current]")).await;
            browser.wait_for("main h2").await;
            let wide = "return document.documentElement.scrollWidth";
            assert_eq!(browser.run(wide, &[]).await, 360, "{language} {tab} scrolls sideways");
        }
        assert_eq!(browser.text("#tab-overview").await, overview);
        if language == "zh-CN" {
            browser.click("#tab-overview").await;
            browser.wait_for("article[data-profile=qa_v1] svg.plot path.line").await;
            picture(browser, "admin-phone").await;
        }
    }
    browser.resize(1280, 800, false).await;
}

async fn an_operator_works_with_the_page(scene: Scene) {
    let show = Show::start(&scene).await;
    let browser = Browser::start("en-US").await;
    browser.resize(1280, 800, false).await;
    log_in(&browser, &show.host).await;
    assert_eq!(browser.text("#tab-overview").await, "Overview", "the browser's language");
    figures_move(&browser).await;
    attention_keeps_its_place(&browser).await;
    picture(&browser, "admin-overview").await;
    find_a_turn(&scene, &show, &browser).await;
    picture(&browser, "admin-turn").await;
    approve_a_write(&show, &browser).await;
    browser.click("#tab-rollouts").await;
    browser.wait_for("[data-intent=qa] svg.pair").await;
    picture(&browser, "admin-rollouts").await;
    roll_back(&show, &browser).await;
    back_to_the_configuration_before(&show, &browser).await;
    on_a_phone(&browser).await;
    // The cookie alone orders nothing.
    let without = "return fetch('/v1/admin/rollouts', {method: 'POST', headers: {'content-type': 'application/json'}, \
                   body: '{\"intent\":\"qa\",\"order\":\"promote\"}'}).then((answer) => answer.status)";
    assert_eq!(browser.run(without, &[]).await, 403);
    browser.click("#leave").await;
    browser.wait_for("#key").await;
    let out = "return fetch('/v1/admin/session').then((answer) => answer.status)";
    assert_eq!(browser.run(out, &[]).await, 401);

    let elsewhere: Vec<String> = browser.asked_for().await;
    // `chrome://` is the tab before it was sent anywhere.
    let own = |url: &&String| {
        [show.host.url.as_str(), "data:", "chrome://"].iter().any(|begin| url.starts_with(begin))
    };
    assert!(elsewhere.iter().all(|url| own(&url)), "{elsewhere:?}");
    // Statuses that the test asked for are all that it complains of: no policy was broken, nothing was thrown.
    let said = browser.log("browser").await;
    assert!(said.iter().all(|line| line["source"] == "network" || line["level"] == "DEBUG"), "{said:?}");
    browser.stop().await;
    show.stop().await;
}

async fn the_page_is_served_strictly(scene: Scene) {
    let show = Show::start(&scene).await;
    let person = Person::new(&show.host.url);
    for path in ["/admin", "/admin/app.js", "/admin/style.css"] {
        let answer = person.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(
            (answer.header("x-content-type-options"), answer.header("referrer-policy")),
            ("nosniff", "no-referrer")
        );
        let tag = answer.header("etag").to_owned();
        let again = person.send("GET", path, &[("if-none-match", &tag)], None).await.expect("an answer");
        assert_eq!((again.status, again.text.as_str()), (304, ""));
        let head = person.send("HEAD", path, &[], None).await.expect("an answer");
        assert_eq!((head.status, head.text.as_str(), head.header("etag")), (200, "", tag.as_str()));
    }
    // A host without operators has no page.
    assert_eq!(Person::new(&scene.host(crate::Setup::Plain).url).get("/admin").await.status, 404);
    show.stop().await;
}
