//! `batonq serve`: the broker.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use batonq_server::cluster::Leave;
use batonq_server::config::{Config, LogFormat, SETTINGS, Sources};
use batonq_server::node::Node;
use clap::{Arg, ArgMatches, Args, FromArgMatches};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

/// Flags of `serve`: one for each setting.
#[derive(Debug)]
pub(crate) struct Serve {
    flags: BTreeMap<String, String>,
    file: Option<PathBuf>,
}

impl Args for Serve {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("A TOML file with settings [env: BATONQ_CONFIG]");
        SETTINGS.iter().fold(command.arg(file), |command, setting| {
            let default = setting.default.map(|text| format!(" [default: {text}]"));
            let default = default.unwrap_or_default();
            let help = format!("{}{default} [env: {}]", setting.help, setting.env);
            let flag = setting.key.replace('_', "-");
            // Others can read the arguments of a process.
            let is_hidden = setting.is_secret;
            command.arg(
                Arg::new(setting.key).long(flag).value_name("VALUE").help(help).hide(is_hidden),
            )
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Serve {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flag = |key: &str| matches.get_one::<String>(key).map(|value| (key.to_owned(), value));
        let flags = SETTINGS.iter().filter_map(|setting| flag(setting.key));
        Ok(Self {
            flags: flags.map(|(key, value)| (key, value.clone())).collect(),
            file: matches.get_one::<PathBuf>("config").cloned(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Serve {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let sources = Sources::of_process(self.flags, self.file);
        let config = Config::load(&sources).map_err(Failure::usage)?;
        start_log(&config)?;
        let settings = Config::describe(&sources).map_err(Failure::usage)?;
        tracing::info!(settings, "settings");
        let access = if config.access.is_open() { "open to all who can connect" } else { "tokens" };
        tracing::info!(access, "access");
        let signals = || Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?));
        let signals: std::io::Result<_> = signals();
        let (mut terminate, mut interrupt) = signals.map_err(Failure::other)?;
        let mut node = Node::start(config).await.map_err(Failure::other)?;
        announce(&node)?;
        let requests = node.requests();
        tokio::select! {
            reason = node.failed() => {
                node.stop().await;
                return Err(Failure::other(reason));
            }
            () = requests.asked(Leave::Exit) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::select! {
            () = node.stop() => Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => Err(Failure::other("stopped at once: interrupted again")),
        }
    }
}

/// One line for programs that start a node and need to know where it listens.
fn announce(node: &Node) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let http = node.http_address().map_or("off".into(), |address| address.to_string());
    writeln!(out, "batonq ready tcp={} http={http}", node.tcp_address()).map_err(Failure::other)?;
    out.flush().map_err(Failure::other)
}

/// The log goes to standard error.
fn start_log(config: &Config) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| Failure::usage(format!("BATONQ_LOG: {error}")))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Human => log.with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
