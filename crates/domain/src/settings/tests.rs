//! What the settings refuse, and that their table is whole.

use secrecy::SecretString;

use super::*;

fn production(signing: &str, master: &str) -> Settings {
    Settings {
        secret_key: Some(signing.into()),
        secrets_master_key: Some(master.into()),
        ..Settings::default()
    }
}

#[test]
fn a_text_stays_what_was_set_and_a_number_is_read_where_one_is_meant() {
    let digits = "0123456789".repeat(4);
    let variables = [
        ("DEV_USER_PASSWORD", "0042"),
        ("SECRET_KEY", digits.as_str()),
        ("BIFROST_SECRETS_MASTER_KEY", "1e9"),
        ("S3_ACCESS_KEY_ID", "007"),
        ("RUN_NETWORK", "443"),
        ("DEV_AUTH_BYPASS", "true"),
        ("WORKER_SLOTS", "4"),
        ("BIFROST_HISTORY_DAYS", "30"),
        ("METRICS_PORT", "0"),
        ("METRICS_ADDR", "0.0.0.0"),
        ("GIT_LOCAL_REMOTES", "true"),
        ("ENVIRONMENT", "testing"),
        ("QUEUE_PREFIX", ""),
        ("REDIS_PREFIX", ""),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings = Settings::read(Some(variables.into_iter().collect())).unwrap();

    let secret = |secret: &Option<SecretString>| secret.as_ref().unwrap().expose_secret().to_owned();
    assert_eq!(settings.dev_user_password.expose_secret(), "0042");
    assert_eq!(secret(&settings.secret_key), digits);
    assert_eq!(secret(&settings.secrets_master_key), "1e9");
    assert_eq!(settings.s3_access_key_id.as_deref(), Some("007"));
    assert_eq!((&*settings.run_network, &*settings.dev_auth_bypass), ("443", "true"));
    assert_eq!((settings.worker_slots, settings.history_days), (4, 30));
    assert_eq!(settings.metrics_address(), Some(([0, 0, 0, 0], 0).into()));
    assert!(settings.git_local_remotes);
    assert_eq!(settings.environment, Environment::Testing);
    assert_eq!((&*settings.queue_prefix, &*settings.redis_prefix), ("", "bifrost"), "empty means unset");

    let wrong = std::iter::once(("WORKER_SLOTS".to_owned(), "many".to_owned())).collect();
    let fault = Settings::read(Some(wrong)).unwrap_err();
    assert!(fault.contains("many"), "{fault}");
}

#[test]
fn production_refuses_weak_secrets_and_names_the_variable_only() {
    let strong = "k3RrN0yZ4vQx7pLw9sTd2uHf6jBm1cGa8eXo";
    let other = "Zp8Yw2Qn5Rt7Ls1Kd4Jf9Hg3Mb6Vc0Xa_Te";
    for (settings, variable) in [
        (production("short", other), "SECRET_KEY"),
        (production(strong, "short"), "SECRETS_MASTER_KEY"),
        (production("change-me-change-me-change-me-change-me", other), "SECRET_KEY"),
        (production(strong, strong), "SECRETS_MASTER_KEY"),
        (Settings { secret_key: None, ..production(strong, other) }, "SECRET_KEY"),
    ] {
        let fault = settings.check().expect_err("weak");
        assert!(fault.contains(variable), "{fault}");
        assert!(!fault.contains(strong) && !fault.contains("change-me-change"), "{fault}");
    }
    assert_eq!(production(strong, other).check(), Ok(()));
    assert_eq!(Settings::default().environment, Environment::Production, "unset means production");
    let local = Settings { git_local_remotes: true, ..production(strong, other) };
    assert!(local.check().expect_err("for development").contains("GIT_LOCAL_REMOTES"));
}

#[test]
fn production_refuses_to_run_code_that_nothing_encloses() {
    let strong = production("k3RrN0yZ4vQx7pLw9sTd2uHf6jBm1cGa8eXo", "Zp8Yw2Qn5Rt7Ls1Kd4Jf9Hg3Mb6Vc0Xa_Te");
    let off = Settings { isolation: "off".into(), ..strong.clone() };
    let told = Settings { allow_isolation_off: true, ..off.clone() };
    let development = Settings { environment: Environment::Development, ..off.clone() };
    assert!(off.check().expect_err("refused").contains("ALLOW_ISOLATION_OFF"));
    assert_eq!([told.check(), development.check()], [Ok(()), Ok(())]);
    for mode in ["required", "best-effort"] {
        assert_eq!(Settings { isolation: mode.into(), ..strong.clone() }.check(), Ok(()));
    }
    assert!(Settings { isolation: "auto".into(), ..strong.clone() }.check().is_err());
    let groups = Settings { run_cgroups: "on".into(), ..strong.clone() };
    assert!(groups.check().expect_err("refused").contains("RUN_CGROUPS"));
    for (network, is_fine) in [
        ("open", true),
        ("none", true),
        ("443", true),
        ("80,443", true),
        ("", false),
        ("443,", false),
        ("all", false),
        ("0", false),
        ("70000", false),
    ] {
        let settings = Settings { run_network: network.into(), ..strong.clone() };
        assert_eq!(settings.check().is_ok(), is_fine, "{network:?}");
    }
}

/// Whether a text of people says the unit that the name of a number ends with.
fn says_its_unit(setting: &Setting) -> bool {
    let units = [("_MB", "MiB"), ("_SECONDS", "seconds"), ("_MINUTES", "minutes"), ("_DAYS", "days")];
    units.iter().all(|(ending, unit)| !setting.variable.ends_with(ending) || setting.meaning.contains(unit))
}

#[test]
fn the_table_tells_of_each_setting_once_and_says_the_unit() {
    let table = Settings::table();
    let debug = format!("{:?}", Settings::default());
    for setting in &table {
        let field = setting.variable.to_lowercase();
        assert!(debug.contains(&format!("{field}: ")), "{field} is no field");
        assert!(setting.meaning.ends_with('.') && !setting.meaning.contains(['\n', '|']), "{setting:?}");
        assert!(says_its_unit(setting), "{setting:?}");
    }
    let names: std::collections::BTreeSet<&str> =
        table.iter().map(|setting| setting.variable.as_str()).collect();
    let groups: Vec<&str> =
        table.chunk_by(|one, other| one.group == other.group).map(|group| group[0].group).collect();
    let distinct: std::collections::BTreeSet<&&str> = groups.iter().collect();
    assert_eq!(
        (names.len(), distinct.len()),
        (table.len(), groups.len()),
        "each once, each group in one piece"
    );
    assert_eq!(
        table.iter().find(|one| one.variable == "WORKER_SLOTS").and_then(|one| one.default.as_deref()),
        Some("16")
    );
    assert_eq!(
        table.iter().find(|one| one.variable == "SECRET_KEY").and_then(|one| one.default.clone()),
        None
    );
}
