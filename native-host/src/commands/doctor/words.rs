//! What the doctor says, in both languages: beside each other, so that neither is forgotten.

use super::{Finding, Lang, Verdict};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Nothing,
    Unreachable,
    Late,
    WrongKey,
    NoModel,
    Failed,
    SlowRuntime,
    NoRuntime,
    NoLimit,
    Serial,
    NoContext,
    ContextTooLarge,
    SlowNetwork,
    NoNetwork,
    OpenClawNotReady,
    NotSet,
    NoChannel,
}

impl Said {
    pub(super) fn advice(self, lang: Lang) -> &'static str {
        let (en, zh) = match self {
            Self::Nothing => ("", ""),
            Self::Unreachable => (
                "nobody listens there: start it, or correct its address",
                "没有程序在监听：启动它，或改正地址",
            ),
            Self::Late => (
                "it does not answer in its time: restart it, and look at its log",
                "在规定时间内没有回答：重启它并查看它的日志",
            ),
            Self::WrongKey => {
                ("it refuses the key: set the same one on both sides", "密钥被拒绝：两边要设置同一个")
            }
            Self::NoModel => (
                "it does not know the model: `model` must be its name there",
                "那里没有这个模型：`model` 要写它在那里的名字",
            ),
            Self::Failed => ("it answers with an error: look at its log", "它返回错误：查看它的日志"),
            Self::SlowRuntime => (
                "it takes much of timeout_ms for a few words: a smaller or quantised model, a GPU, fewer at once",
                "几个字就用去 timeout_ms 的很大部分：换更小或量化的模型、用 GPU、降低并发",
            ),
            Self::NoRuntime => (
                "no model has a server of its own here: OpenClaw's models answer",
                "这里没有自建模型：由 OpenClaw 的模型回答",
            ),
            Self::NoLimit => (
                "set limits.max_concurrency_per_model for it: without it one busy group takes all of the runtime",
                "为它设置 limits.max_concurrency_per_model：否则一个繁忙的群会占满运行时",
            ),
            Self::Serial => (
                "the runtime answers one after the other: lower max_concurrency_per_model, or give it more slots",
                "运行时是一个一个回答的：调低 max_concurrency_per_model，或给它更多并行槽位",
            ),
            Self::NoContext => (
                "set context_tokens (and on_overflow): overlong prompts then end in a clear word and not in a timeout",
                "设置 context_tokens（和 on_overflow）：过长的提示会得到明确的答复，而不是超时",
            ),
            Self::ContextTooLarge => (
                "the runtime holds less than context_tokens: lower it",
                "运行时容纳的比 context_tokens 少：把它调低",
            ),
            Self::SlowNetwork => (
                "a connection takes long: look at DNS, a proxy, the route",
                "建立连接很慢：检查 DNS、代理和路由",
            ),
            Self::NoNetwork => {
                ("no connection: look at DNS, the firewall, a proxy", "无法连接：检查 DNS、防火墙和代理")
            }
            Self::OpenClawNotReady => (
                "it starts, or a part of it failed: `openclaw status`",
                "它正在启动，或某个部分失败：运行 `openclaw status`",
            ),
            Self::NotSet => (
                "a setting is missing: `minigate onboard` asks for it",
                "缺少设置：`minigate onboard` 会询问",
            ),
            Self::NoChannel => (
                "no robot is configured: `minigate onboard --channel dingtalk`",
                "没有配置机器人：`minigate onboard --channel dingtalk`",
            ),
        };
        if lang == Lang::Zh { zh } else { en }
    }
}

pub(super) fn verdict(verdict: Verdict, lang: Lang) -> &'static str {
    match (verdict, lang) {
        (Verdict::Ok, Lang::En) => "OK",
        (Verdict::Unknown, Lang::En) => "unknown",
        (Verdict::Slow, Lang::En) => "slow",
        (Verdict::Broken, Lang::En) => "broken",
        (Verdict::Ok, Lang::Zh) => "正常",
        (Verdict::Unknown, Lang::Zh) => "未知",
        (Verdict::Slow, Lang::Zh) => "慢",
        (Verdict::Broken, Lang::Zh) => "故障",
    }
}

pub(super) fn area(area: &'static str, lang: Lang) -> &'static str {
    let (en, zh) = match area {
        "runtime" => ("runtime", "模型运行时"),
        "concurrency" => ("concurrency", "并发"),
        "prompt" => ("prompt length", "提示长度"),
        "network" => ("network", "网络"),
        "openclaw" => ("OpenClaw", "OpenClaw"),
        "dingtalk" => ("DingTalk", "钉钉"),
        other => (other, other),
    };
    if lang == Lang::Zh { zh } else { en }
}

/// The first of the worst: what is before it in the order is fine.
pub(super) fn conclusion(findings: &[Finding], worst: Verdict, lang: Lang) -> String {
    let first = findings.iter().find(|finding| finding.verdict == worst);
    let area = first.map_or("", |finding| area(finding.area, lang));
    match (worst, lang) {
        (Verdict::Ok, Lang::En) => "Verdict: everything is fine.".to_owned(),
        (Verdict::Ok, Lang::Zh) => "结论：一切正常。".to_owned(),
        (Verdict::Unknown, Lang::En) => {
            "Verdict: nothing is wrong, and not all could be measured.".to_owned()
        }
        (Verdict::Unknown, Lang::Zh) => "结论：没有发现问题，但并非都能测量。".to_owned(),
        (Verdict::Slow, Lang::En) => format!("Verdict: it works; {area} makes it slow."),
        (Verdict::Slow, Lang::Zh) => format!("结论：能用；{area}使它变慢。"),
        (Verdict::Broken, Lang::En) => format!("Verdict: {area} is broken; begin there."),
        (Verdict::Broken, Lang::Zh) => format!("结论：{area}有故障，从它开始处理。"),
    }
}
