//! The flags of `sheave agent`, made from the table of settings.
//!
//! Must not know any setting by name.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};

use super::{
    layers::Layers,
    setting::{Default, SETTINGS, Setting, variable},
};

/// What the command line of `sheave agent` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentFlags {
    flags: BTreeMap<String, String>,
    file: Option<PathBuf>,
}

impl AgentFlags {
    /// These flags over the process's environment and the configuration file they name.
    pub fn into_layers(self) -> Layers {
        Layers { flags: self.flags, environment: std::env::vars_os().collect(), file: self.file }
    }
}

fn argument(setting: &'static Setting) -> Arg {
    let default = match setting.default {
        Default::Absent => String::new(),
        Default::Text(text) => format!(" [default: {}]", if text.is_empty() { "empty" } else { text }),
        Default::Number(number) => format!(" [default: {number}]"),
    };
    let help = format!("{}{default} [env: {}]", setting.help, variable(setting.name));
    let argument = Arg::new(setting.name).long(setting.name).value_name(setting.value_name).help(help);
    match setting.value_name {
        // Without a value, a switch is on.
        "BOOL" => argument.num_args(0..=1).default_missing_value("true"),
        _ => argument,
    }
}

impl Args for AgentFlags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("PATH")
            .env("SHEAVE_CONFIG")
            .value_parser(value_parser!(PathBuf))
            .help(
                "Configuration file: YAML, or TOML if its name ends in .toml; the keys are the flags' names",
            );
        command.arg(file).args(SETTINGS.iter().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for AgentFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &Setting| {
            Some((setting.name.to_owned(), matches.get_one::<String>(setting.name)?.clone()))
        };
        Ok(Self {
            flags: SETTINGS.iter().filter_map(given).collect(),
            file: matches.get_one("config").cloned(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
