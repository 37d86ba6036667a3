//! A real Chromium, driven by WebDriver: a few requests in JSON to the driver that comes with it
//! (<https://www.w3.org/TR/webdriver2/>), and its own logs of what pages say and ask for.

use std::{path::PathBuf, process::Stdio, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{hosts::new_directory, required, until};

/// How long a browser may take to start on a machine that is busy with other things.
const START: Duration = Duration::from_secs(90);
/// How long anything on a page may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The name of an element's reference in WebDriver.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// What keeps it from anything but its page: no first run, no updates, no accounts.
const ARGUMENTS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-proxy-server",
];

/// One window of a browser that nobody has used before.
#[derive(Debug)]
pub struct Browser {
    http: reqwest::Client,
    /// The session's URL at the driver.
    session: String,
    driver: Child,
    /// Chromium's own process, which outlives a driver that is killed.
    chromium: u64,
    directory: PathBuf,
}

impl Browser {
    /// Starts it, for somebody who reads that language (`en-US`, `zh-CN`).
    ///
    /// # Panics
    /// When it cannot start.
    pub async fn start(language: &str) -> Self {
        let directory = new_directory("chromium");
        let mut driver = Command::new(required("MINIGATE_CHROMEDRIVER"))
            .args(["--port=0", "--log-level=SEVERE"])
            .env("HOME", &directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver can be started");
        let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = tokio::time::timeout(START, async {
            loop {
                let line = lines.next_line().await.expect("lines").expect("chromedriver says its port");
                if let Some((_, port)) = line.split_once("started successfully on port ") {
                    break port.trim_end_matches('.').to_owned();
                }
            }
        });
        let port = port.await.expect("chromedriver starts in time");
        // Nobody may be kept waiting by what it says later.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let mut arguments: Vec<String> = ARGUMENTS.iter().map(|&one| one.to_owned()).collect();
        arguments.push(format!("--user-data-dir={}", directory.join("profile").display()));
        arguments.push(format!("--accept-lang={language}"));
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {
                "binary": required("MINIGATE_CHROMIUM"),
                "args": arguments,
                "browserStartupTimeout": START.as_millis() as u64,
            },
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let http = reqwest::Client::builder().no_proxy().timeout(START).build().expect("a client");
        let driver_url = format!("http://127.0.0.1:{port}");
        let mut browser = Self { http, session: driver_url, driver, chromium: 0, directory };
        let session = browser.ask(Method::POST, "/session", &wanted).await.expect("Chromium starts");
        let id = session["sessionId"].as_str().expect("a session");
        browser.chromium = session["capabilities"]["goog:processID"].as_u64().unwrap_or_default();
        browser.session = format!("{}/session/{id}", browser.session);
        browser
    }

    /// One command; what went wrong in the driver's words.
    async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Value, String> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.session));
        if method == Method::POST {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.map_err(|error| format!("chromedriver: {error}"))?;
        let ok = response.status().is_success();
        let text = response.text().await.map_err(|error| format!("chromedriver: {error}"))?;
        let value = serde_json::from_str::<Value>(&text).unwrap_or_default()["value"].take();
        if ok { Ok(value) } else { Err(format!("{path}: {} {}", value["error"], value["message"])) }
    }

    /// Goes to a page.
    ///
    /// # Panics
    /// When there is none.
    pub async fn open(&self, url: &str) {
        self.ask(Method::POST, "/url", &json!({"url": url})).await.expect("a page");
    }

    /// Runs the body of a function in the page; gives what it returns. A promise is waited for.
    ///
    /// # Panics
    /// When it throws.
    pub async fn run(&self, script: &str, arguments: &[Value]) -> Value {
        let body = json!({"script": script, "args": arguments});
        self.ask(Method::POST, "/execute/sync", &body).await.expect("a script that runs")
    }

    /// The path of the first element that a CSS selector finds.
    async fn find(&self, selector: &str) -> Result<String, String> {
        let body = json!({"using": "css selector", "value": selector});
        let found = self.ask(Method::POST, "/element", &body).await?;
        Ok(format!("/element/{}", found[ELEMENT].as_str().unwrap_or_default()))
    }

    /// Does something with an element as soon as it can be done: the page draws itself anew, so an
    /// element may be another one a moment later.
    async fn when_there(&self, selector: &str, command: &str, body: &Value) {
        let mut last = String::new();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            let done = async {
                let path = self.find(selector).await?;
                self.ask(Method::POST, &format!("{path}/{command}"), body).await
            };
            match done.await {
                Ok(_) => return,
                Err(error) => last = error,
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{selector}: {last}\n{}", self.text("body").await);
    }

    /// Clicks as a person does: only what is seen can be clicked.
    ///
    /// # Panics
    /// When it cannot be clicked in time.
    pub async fn click(&self, selector: &str) {
        self.when_there(selector, "click", &json!({})).await;
    }

    /// Types into a field; `\u{E007}` is Enter.
    ///
    /// # Panics
    /// When there is no such field in time.
    pub async fn write(&self, selector: &str, text: &str) {
        self.when_there(selector, "clear", &json!({})).await;
        self.when_there(selector, "value", &json!({"text": text})).await;
    }

    /// The text of an element as it is shown; empty when there is none.
    pub async fn text(&self, selector: &str) -> String {
        let text = async {
            let path = self.find(selector).await?;
            self.ask(Method::GET, &format!("{path}/text"), &Value::Null).await
        };
        text.await.ok().and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Waits until an element that the selector finds is shown.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn wait_for(&self, selector: &str) {
        let shown =
            "return [...document.querySelectorAll(arguments[0])].some((one) => one.checkVisibility())";
        let there = async || self.run(shown, &[selector.into()]).await == true;
        self.wait_until(selector, there).await;
    }

    /// Waits until a condition holds.
    ///
    /// # Panics
    /// When it does not in time; says what is on the page.
    pub async fn wait_until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds().await {
            if tokio::time::Instant::now() > deadline {
                panic!("waited {PATIENCE:?} for {what}; the page:\n{}", self.text("body").await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes the page's area that large, in CSS pixels; a phone's has touch and no scroll bars.
    ///
    /// # Panics
    /// When Chromium does not do it.
    pub async fn resize(&self, width: u32, height: u32, phone: bool) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone});
        let body = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": size});
        self.ask(Method::POST, "/goog/cdp/execute", &body).await.expect("a size");
        let inner = "return [innerWidth, innerHeight]";
        until("the size", PATIENCE, async || self.run(inner, &[]).await[0] == width).await;
    }

    /// What is seen now, as PNG.
    ///
    /// # Panics
    /// When there is no picture.
    pub async fn screenshot(&self) -> Vec<u8> {
        let picture = self.ask(Method::GET, "/screenshot", &Value::Null).await.expect("a picture");
        STANDARD.decode(picture.as_str().unwrap_or_default()).expect("base64")
    }

    /// Lines of one of its logs since the last time: `browser` has what pages say and what
    /// was kept from them.
    pub async fn log(&self, kind: &str) -> Vec<Value> {
        let lines = self.ask(Method::POST, "/se/log", &json!({"type": kind})).await;
        lines.expect("a log").as_array().cloned().unwrap_or_default()
    }

    /// The addresses that pages have asked for since the last time.
    ///
    /// # Panics
    /// When the log cannot be read.
    pub async fn asked_for(&self) -> Vec<String> {
        let lines = self.log("performance").await;
        let requests = lines.iter().filter_map(|line| {
            let event: Value = serde_json::from_str(line["message"].as_str()?).ok()?;
            let event = &event["message"];
            let sent = event["method"] == "Network.requestWillBeSent";
            sent.then(|| event["params"]["request"]["url"].as_str().unwrap_or_default().to_owned())
        });
        requests.collect()
    }

    /// Closes it.
    pub async fn stop(mut self) {
        let _ = self.ask(Method::DELETE, "", &Value::Null).await;
        // It has ended by itself; its number may be another one's soon.
        self.chromium = 0;
        let _ = self.driver.kill().await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if self.chromium != 0 {
            let _ = std::process::Command::new("kill").arg(self.chromium.to_string()).status();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
