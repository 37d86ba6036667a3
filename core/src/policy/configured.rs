//! The configuration's part of a policy.
//!
//! The files say what is usual, and a setting that was given where the gateway runs wins: it is
//! what an operator reaches for at night.

use super::{
    ContentMode, Policy, Role, Secrets, SettingError, Settings, catalog::Catalog, notify::WebhookKeys,
};

impl Policy {
    /// Takes a configuration over, with the settings and secrets of
    /// [`from_settings`](Self::from_settings) and the secrets that
    /// [`Catalog::secrets`] names.
    ///
    /// # Errors
    /// Every setting that the configuration needs and that is not there.
    pub fn configure(
        &mut self,
        catalog: Catalog,
        settings: &Settings,
        secrets: &Secrets,
    ) -> Result<(), Vec<SettingError>> {
        let is_set = |name: &str| settings.get(name).is_some_and(|value| !value.trim().is_empty());
        let mut errors = Vec::new();
        for name in catalog.secrets().into_iter().filter(|name| secrets.get(name).is_none()) {
            let problem = "not set, and the configuration names it".to_owned();
            errors.push(SettingError { name: name.to_owned(), problem });
        }
        if let Some(webhook) = &catalog.notify.webhook
            && let Some(secret) = secrets.get(&webhook.secret)
        {
            match WebhookKeys::parse(secret) {
                Some(keys) => self.webhook_keys = keys,
                None => errors.push(SettingError {
                    name: webhook.secret.clone(),
                    problem:
                        "must be whsec_ and base64 of 24 to 64 bytes; `openssl rand -base64 32` gives some"
                            .to_owned(),
                }),
            }
        }
        if catalog.notify.subscribe.is_some() && self.login.appid.is_none() {
            let problem = "not set, and the configuration's `notify.subscribe` needs it".to_owned();
            errors.push(SettingError { name: "WECHAT_APPID".to_owned(), problem });
        }
        self.configure_roles(&catalog, is_set("RATE_LIMIT_PER_MINUTE") || is_set("RATE_LIMIT_BURST"));
        if let Some(rules) = catalog.rules(self.environment) {
            if let Some(level) = rules.log_level.filter(|_| !is_set("LOG_LEVEL")) {
                self.log_level = level;
            }
            if let Some(mode) = rules.content.filter(|_| !is_set("CONTENT_CHECK")) {
                self.content.mode = mode;
            }
        }
        if self.content.mode != ContentMode::Off && self.login.appid.is_none() && !is_set("CONTENT_CHECK") {
            let problem = "not set, and the configuration's `content_check` needs it".to_owned();
            errors.push(SettingError { name: "WECHAT_APPID".to_owned(), problem });
        }
        self.catalog = catalog;
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Rates and weights. What `ROLE_LIMITS` names stays as it is there.
    fn configure_roles(&mut self, catalog: &Catalog, everybody_is_set: bool) {
        let environment = catalog.rules(self.environment).and_then(|rules| rules.rate);
        let usual = environment.or_else(|| catalog.everybody().and_then(|rules| rules.rate));
        if let (Some(rate), Some(everybody)) = (usual, self.roles.first_mut())
            && !everybody_is_set
        {
            everybody.rate = Some(rate);
        }
        let usual = self.roles.first().and_then(|everybody| everybody.rate);
        for rules in catalog.roles.iter().filter(|rules| !rules.name.is_empty()) {
            if self.roles.iter().any(|role| role.name == rules.name) {
                continue;
            }
            self.roles.push(Role {
                name: rules.name.clone(),
                rate: rules.rate.or(usual),
                weight: rules.weight.unwrap_or(1),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::{
        policy::{
            Environment,
            catalog::{EnvironmentRules, Model, ModelKind, RoleRules, Runtime},
        },
        seam::Level,
        state::caller::Rate,
    };

    fn catalog() -> Catalog {
        let rate = |per_minute| Some(Rate { per_minute, burst: 5 });
        let role =
            |name: &str, rate, weight| RoleRules { name: name.into(), rate, weight, ..RoleRules::default() };
        Catalog {
            environments: vec![EnvironmentRules {
                environment: Environment::Prod,
                allowed_profiles: None,
                log_level: Some(Level::Warn),
                rate: rate(30),
                daily: None,
                content: Some(ContentMode::Log),
            }],
            roles: vec![
                role("", rate(60), None),
                role("vip", rate(300), Some(4)),
                role("operator", None, None),
            ],
            models: vec![Model {
                alias: "local".into(),
                kind: ModelKind::OpenAi {
                    base_url: "http://127.0.0.1:8000/v1".into(),
                    api_key: Some("LOCAL_KEY".into()),
                    model: "m".into(),
                },
                slots: None,
                timeout_ms: None,
                side_effects: false,
                runtime: Runtime::default(),
            }],
            ..Catalog::default()
        }
    }

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn the_configuration_says_what_settings_do_not() {
        let mut policy = Policy::default();
        policy.login.appid = Some("wx1".into());
        let mut secrets = Secrets::default();
        secrets.0.insert("LOCAL_KEY".into(), "k".into());
        assert_eq!(policy.configure(catalog(), &Settings::new(), &secrets), Ok(()));
        let rates: Vec<_> = policy.roles.iter().map(|role| role.rate.map(|rate| rate.per_minute)).collect();
        assert_eq!(rates, [Some(30), Some(300), Some(30)]);
        assert_eq!((policy.log_level, policy.content.mode), (Level::Warn, ContentMode::Log));
        assert_eq!(policy.role("vip").weight, 4);

        let mut policy =
            Policy { roles: vec![Role { name: String::new(), rate: None, weight: 1 }], ..Policy::default() };
        policy.roles.push(Role { name: "vip".into(), rate: None, weight: 9 });
        policy.login.appid = Some("wx1".into());
        let given =
            settings(&[("LOG_LEVEL", "info"), ("CONTENT_CHECK", "off"), ("RATE_LIMIT_PER_MINUTE", "0")]);
        assert_eq!(policy.configure(catalog(), &given, &secrets), Ok(()));
        assert_eq!((policy.log_level, policy.content.mode), (Level::Info, ContentMode::Off));
        assert_eq!(policy.roles.first().and_then(|role| role.rate), None);
        assert_eq!(policy.role("vip").weight, 9);
    }

    #[test]
    fn what_the_configuration_needs_must_be_set() {
        let errors = Policy::default().configure(catalog(), &Settings::new(), &Secrets::default());
        let names: Vec<String> = errors.expect_err("two").into_iter().map(|error| error.name).collect();
        assert_eq!(names, ["LOCAL_KEY", "WECHAT_APPID"]);
    }
}
