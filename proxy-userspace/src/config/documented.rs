//! docs/configuration.md says the same as the table of settings, and its example file is a valid one.

use std::io::Write as _;

use super::{
    Layers, NodePortAddresses, SETTINGS, Setting, load,
    setting::{Default, variable},
};

const PAGE: &str = include_str!("../../../docs/configuration.md");

/// The cells of the page's rows about settings, without the backquotes.
fn rows() -> Vec<Vec<String>> {
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect();
    PAGE.lines().filter_map(|line| line.strip_prefix("| `--")).map(cells).collect()
}

/// Flag without the dashes, variable, key and default, as the page should have them.
fn expected(setting: &Setting) -> Vec<String> {
    let default = match setting.default {
        _ if setting.name == "node-name" => "host name in lower case".to_owned(),
        _ if setting.name == "cgroup" => "root of the cgroup2 mount".to_owned(),
        Default::Absent => "none".to_owned(),
        Default::Text("") => "empty".to_owned(),
        Default::Text(_) | Default::Number(_) => setting.default.text().unwrap_or_default(),
    };
    vec![setting.name.to_owned(), variable(setting.name), setting.name.to_owned(), default]
}

#[test]
fn the_page_about_the_configuration_has_every_setting_with_its_default_and_no_other() {
    let found: Vec<_> = rows().into_iter().map(|row| row.into_iter().take(4).collect::<Vec<_>>()).collect();
    let wanted: Vec<_> = SETTINGS.iter().map(expected).collect();
    assert_eq!(found, wanted);
}

#[test]
fn the_page_about_the_configuration_names_further_variables() {
    for setting in SETTINGS {
        for name in setting.also_env {
            assert!(PAGE.contains(&format!("`{name}` is looked at after `{}`", variable(setting.name))));
        }
    }
}

#[test]
fn the_example_in_the_page_about_the_configuration_is_valid() {
    let example = PAGE.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(example.as_bytes()).unwrap();
    let config = load(&Layers { file: Some(file.path().to_owned()), ..Layers::default() }).unwrap().config;
    assert!(matches!(config.node_port_addresses, NodePortAddresses::Within(networks) if networks.len() == 2));
}
