//! Settings: one table, one typed result.
//!
//! A setting is taken from the first that has it: flag, environment, file, default. Only this file
//! reads the environment. What is unknown or does not fit together stops the start, with a message
//! that names the setting and the fix; a secret can be given as a file (`…_FILE`) and is never
//! printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::access::Access;
use crate::broker::Patience;
use crate::leader::Profile;
#[cfg(feature = "mutants")]
use crate::mutants::{self, Mutant};
use crate::origins::Origins;
use crate::secrets::Keyring;
use crate::store::Retention;
use crate::store::postgres::{CONNECTIONS_MIN, Database, Dsn, Migrate};
use crate::webhooks::Reach;

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name in the file; as a flag with `-` for `_`.
    pub key: &'static str,
    /// Its name in the environment.
    pub env: &'static str,
    /// `None`: unset.
    pub default: Option<&'static str>,
    /// Not printed; may be given as a file.
    pub is_secret: bool,
    /// What it is for.
    pub help: &'static str,
}

const fn setting(
    key: &'static str,
    env: &'static str,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting { key, env, default, is_secret: false, help }
}

const fn secret(key: &'static str, env: &'static str, help: &'static str) -> Setting {
    Setting { key, env, default: None, is_secret: true, help }
}

/// All settings.
pub const SETTINGS: &[Setting] = &[
    setting("port", "PORT", Some("6789"), "TCP port of the binary protocol; 0 picks a free one"),
    setting("http", "HTTP", Some("1"), "1: serve HTTP, 0: do not"),
    setting("http_port", "HTTP_PORT", Some("6790"), "TCP port of HTTP; 0 picks a free one"),
    setting(
        "bind",
        "BATONQ_BIND",
        None,
        "Address to listen on: 127.0.0.1 without tokens, 0.0.0.0 with them",
    ),
    secret("tokens", "BATONQ_TOKENS", "TOKEN:ROLE[+ROLE…],… with produce, consume, observe, admin"),
    secret(
        "master_key",
        "BATONQ_MASTER_KEY",
        "64 hex digits (openssl rand -hex 32): the key of queues that are encrypted",
    ),
    secret(
        "master_key_old",
        "BATONQ_MASTER_KEY_OLD",
        "KEY,… earlier master keys: what was sealed with them can still be read",
    ),
    setting(
        "insecure",
        "BATONQ_INSECURE",
        Some("0"),
        "1: allow other addresses than loopback without tokens",
    ),
    setting(
        "cors_origins",
        "BATONQ_CORS_ORIGINS",
        None,
        "Sites whose pages may use HTTP: origins with commas, as https://jobs.example.com, or *",
    ),
    setting(
        "data_dir",
        "BATONQ_DATA_DIR",
        Some("./batonq-data"),
        "Directory of the embedded database",
    ),
    setting("node_id", "NODE_ID", None, "This node's name; generated if absent"),
    setting(
        "node_host",
        "NODE_HOST",
        None,
        "Where clients reach this node; its host name if absent",
    ),
    secret(
        "database_url",
        "DATABASE_URL",
        "Postgres, as URL or key=value list; without it the node runs alone on SQLite",
    ),
    secret(
        "database_password",
        "BATONQ_DATABASE_PASSWORD",
        "Password for Postgres, if DATABASE_URL has none",
    ),
    secret(
        "direct_database_url",
        "BATONQ_DIRECT_DATABASE_URL",
        "The same database without the transaction pooler that DATABASE_URL leads through",
    ),
    setting("cluster_mode", "CLUSTER_MODE", Some("0"), "1: refuse to run without Postgres"),
    setting("schema", "BATONQ_SCHEMA", Some("batonq"), "Schema of the tables in Postgres"),
    setting(
        "migrate",
        "BATONQ_MIGRATE",
        Some("auto"),
        "auto: make and change the tables at the start; off: wait for batonq migrate up",
    ),
    setting(
        "database_connections",
        "BATONQ_DATABASE_CONNECTIONS",
        Some("25"),
        "Connections to Postgres at most",
    ),
    setting(
        "node_heartbeat_interval",
        "BATONQ_NODE_HEARTBEAT_INTERVAL",
        Some("10s"),
        "How often this node says in the database that it lives",
    ),
    setting(
        "node_stale_after",
        "BATONQ_NODE_STALE_AFTER",
        Some("60s"),
        "A node that has been silent for longer is shown as stale",
    ),
    setting(
        "leader_profile",
        "BATONQ_LEADER_PROFILE",
        Some("default"),
        "default: a leader that freezes is replaced in about 3s; fast: in about 1s, with more \
         queries and for a database that is near",
    ),
    setting(
        "heartbeat_interval",
        "BATONQ_HEARTBEAT_INTERVAL",
        Some("5s"),
        "How often clients are asked for a sign of life",
    ),
    setting(
        "heartbeat_timeout",
        "BATONQ_HEARTBEAT_TIMEOUT",
        Some("15s"),
        "A client that is silent for longer loses its jobs",
    ),
    setting(
        "reconnect_grace",
        "BATONQ_RECONNECT_GRACE",
        Some("3s"),
        "How long a worker keeps its jobs after its connection was lost",
    ),
    setting(
        "keep_completed",
        "BATONQ_KEEP_COMPLETED",
        Some("24h"),
        "How long completed and cancelled jobs are kept",
    ),
    setting(
        "keep_completed_max",
        "BATONQ_KEEP_COMPLETED_MAX",
        Some("1000000"),
        "How many completed and cancelled jobs of a queue are kept at most",
    ),
    setting("keep_dead", "BATONQ_KEEP_DEAD", Some("30d"), "How long dead jobs are kept"),
    setting(
        "webhooks_insecure",
        "BATONQ_WEBHOOKS_INSECURE",
        Some("0"),
        "1: webhooks may lead to http:// and to private addresses; for development",
    ),
    setting(
        "drain_timeout",
        "BATONQ_DRAIN_TIMEOUT",
        Some("30s"),
        "How long a node that was told to stop finishes what was asked for",
    ),
    setting("log", "BATONQ_LOG", Some("info"), "What is logged: error, warn, info, debug, trace"),
    setting("log_format", "BATONQ_LOG_FORMAT", Some("human"), "human or json"),
];

/// Names under our prefix in the environment that are not the server's.
const FOREIGN: &[&str] = &[
    "BATONQ_CONFIG",
    "BATONQ_URL",
    "BATONQ_TOKEN",
    #[cfg(feature = "mutants")]
    mutants::SETTING,
];

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Where jobs are kept.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// In files of this node, in a directory.
    Embedded(PathBuf),
    /// In a Postgres that nodes share.
    Shared(Box<SharedConfig>),
}

/// How to work with a shared Postgres.
#[derive(Debug, Clone)]
pub struct SharedConfig {
    /// Where it is.
    pub database: Database,
    /// Connections to it at most.
    pub connections_max: u32,
    /// How often the node says that it lives.
    pub heartbeat_interval: Duration,
    /// How long a node may be silent.
    pub stale_after: Duration,
    /// How soon a silent leader is replaced.
    pub profile: Profile,
}

/// What a node is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub bind: IpAddr,
    /// For the binary protocol; 0: any free one.
    pub port: u16,
    /// For HTTP. `None`: not served.
    pub http_port: Option<u16>,
    /// Who may do what.
    pub access: Access,
    /// What encrypted queues are sealed with.
    pub keys: Keyring,
    /// Where jobs are kept.
    pub store: StoreConfig,
    /// This node's name.
    pub node_id: String,
    /// Where clients reach it, if that was said.
    pub node_host: Option<String>,
    /// Of the settings that should be the same on all nodes of a cluster.
    pub fingerprint: String,
    /// How long silence and absence of clients are borne.
    pub patience: Patience,
    /// How long finished jobs are kept.
    pub retention: Retention,
    /// Where webhooks may lead.
    pub reach: Reach,
    /// Pages of which sites may talk to this node.
    pub origins: Origins,
    /// How long stopping may take.
    pub drain_timeout: Duration,
    /// A filter for the log.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// In which way to be wrong.
    #[cfg(feature = "mutants")]
    pub mutant: Option<Mutant>,
}

/// A setting that can not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {detail}")]
pub struct ConfigError {
    /// The setting, as the user has given it.
    pub name: String,
    /// What is wrong, and what to do.
    pub detail: String,
}

fn error(name: impl Into<String>, detail: impl Into<String>) -> ConfigError {
    ConfigError { name: name.into(), detail: detail.into() }
}

/// Where settings come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// By key.
    pub flags: BTreeMap<String, String>,
    /// By name.
    pub env: BTreeMap<String, String>,
    /// A TOML file.
    pub file: Option<PathBuf>,
}

impl Sources {
    /// Flags, and the environment of this process; the file too, if `BATONQ_CONFIG` names one.
    pub fn of_process(flags: BTreeMap<String, String>, file: Option<PathBuf>) -> Self {
        let text = |name: std::ffi::OsString| name.into_string().ok();
        let env: BTreeMap<String, String> =
            std::env::vars_os().filter_map(|(name, value)| text(name).zip(text(value))).collect();
        let file = file.or_else(|| env.get("BATONQ_CONFIG").map(PathBuf::from));
        Self { flags, env, file }
    }

    fn read(&self) -> Result<Values, ConfigError> {
        let file = self.file.as_deref().map(read_file).transpose()?.unwrap_or_default();
        self.check_env_names()?;
        let mut values = BTreeMap::new();
        for setting in SETTINGS {
            let from_env = self.env.get(setting.env).filter(|value| !value.is_empty());
            let value = if let Some(value) = self.flags.get(setting.key) {
                Value::new(value.clone(), format!("--{}", setting.key.replace('_', "-")))
            } else if let Some(value) = from_env {
                Value::new(value.clone(), setting.env)
            } else if let Some(value) = self.read_secret_file(setting)? {
                value
            } else if let Some(value) = file.get(setting.key) {
                Value::new(value.clone(), format!("{} in the file", setting.key))
            } else if let Some(value) = setting.default {
                Value::new(value.into(), setting.env)
            } else {
                continue;
            };
            values.insert(setting.key, value);
        }
        Ok(Values(values))
    }

    fn read_secret_file(&self, setting: &Setting) -> Result<Option<Value>, ConfigError> {
        let name = format!("{}_FILE", setting.env);
        let Some(path) = self.env.get(&name).filter(|_| setting.is_secret) else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .map_err(|failure| error(&name, format!("{path} can not be read: {failure}")))?;
        Ok(Some(Value::new(text.trim().into(), name)))
    }

    /// A misspelt name must not be passed over.
    fn check_env_names(&self) -> Result<(), ConfigError> {
        let is_known = |name: &str| {
            FOREIGN.contains(&name)
                || SETTINGS.iter().any(|setting| {
                    setting.env == name
                        || setting.is_secret && name.strip_suffix("_FILE") == Some(setting.env)
                })
        };
        match self.env.keys().find(|name| name.starts_with("BATONQ_") && !is_known(name)) {
            Some(name) => Err(error(name, "is no setting: see batonq serve --help")),
            None => Ok(()),
        }
    }
}

fn read_file(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|failure| error(&name, format!("can not be read: {failure}")))?;
    let table: toml::Table = toml::from_str(&text)
        .map_err(|failure| error(&name, format!("is not TOML: {}", failure.message())))?;
    let mut values = BTreeMap::new();
    for (key, value) in table {
        if !SETTINGS.iter().any(|setting| setting.key == key) {
            return Err(error(
                format!("{key} in {name}"),
                "is no setting: see batonq serve --help",
            ));
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(is_on) => u8::from(is_on).to_string(),
            _ => return Err(error(format!("{key} in {name}"), "must be a text or a number")),
        };
        values.insert(key, value);
    }
    Ok(values)
}

struct Value {
    text: String,
    /// What the user calls it.
    name: String,
}

impl Value {
    fn new(text: String, name: impl Into<String>) -> Self {
        Self { text, name: name.into() }
    }
}

struct Values(BTreeMap<&'static str, Value>);

impl Values {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.get(key).map(|value| value.text.as_str())
    }

    /// A setting that has a default.
    fn parse<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        expected: &str,
    ) -> Result<T, ConfigError> {
        let value = self.get(key).ok_or_else(|| error(key, "is not set"))?;
        parse(&value.text)
            .ok_or_else(|| error(&value.name, format!("{:?} is not {expected}", value.text)))
    }

    fn switch(&self, key: &str) -> Result<bool, ConfigError> {
        let parse = |text: &str| match text {
            "1" | "true" => Some(true),
            "0" | "false" => Some(false),
            _ => None,
        };
        self.parse(key, parse, "1 or 0")
    }

    fn port(&self, key: &str) -> Result<u16, ConfigError> {
        self.parse(key, |text| text.parse().ok(), "a port from 0 to 65535")
    }

    fn duration(&self, key: &str) -> Result<Duration, ConfigError> {
        self.parse(key, parse_duration, "a time with its unit, as 500ms, 10s, 2m, 24h or 30d")
    }
}

impl Config {
    /// The settings of these sources.
    ///
    /// # Errors
    ///
    /// The first setting that can not be used.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let values = sources.read()?;
        let access = match values.get("tokens") {
            Some(value) => {
                Access::parse(&value.text).map_err(|detail| error(&value.name, detail))?
            }
            None => Access::open(),
        };
        let log_format = |text: &str| match text {
            "human" => Some(LogFormat::Human),
            "json" => Some(LogFormat::Json),
            _ => None,
        };
        Ok(Self {
            bind: bind(&values, &access)?,
            port: values.port("port")?,
            http_port: match values.switch("http")? {
                true => Some(values.port("http_port")?),
                false => None,
            },
            access,
            keys: keys(&values)?,
            store: store(&values)?,
            node_id: node_id(&values)?,
            node_host: values.text("node_host").map(Into::into),
            fingerprint: fingerprint(&values),
            patience: patience(&values)?,
            retention: Retention {
                completed: values.duration("keep_completed")?,
                completed_max: values.parse(
                    "keep_completed_max",
                    |text| text.parse().ok(),
                    "a number",
                )?,
                dead: values.duration("keep_dead")?,
            },
            reach: match values.switch("webhooks_insecure")? {
                true => Reach::Anywhere,
                false => Reach::Public,
            },
            origins: match values.get("cors_origins") {
                Some(value) => {
                    Origins::parse(&value.text).map_err(|detail| error(&value.name, detail))?
                }
                None => Origins::default(),
            },
            drain_timeout: values.duration("drain_timeout")?,
            log: values.parse("log", |text| Some(text.into()), "a filter")?,
            log_format: values.parse("log_format", log_format, "human or json")?,
            #[cfg(feature = "mutants")]
            mutant: mutant(sources, &values)?,
        })
    }

    /// The database alone, for what needs no more.
    ///
    /// # Errors
    ///
    /// As for [`Config::load`], and if no database is named.
    pub fn load_database(sources: &Sources) -> Result<Database, ConfigError> {
        database(&sources.read()?)
    }

    /// Settings and their values, secrets blanked, for the log.
    ///
    /// # Errors
    ///
    /// As for [`Config::load`].
    pub fn describe(sources: &Sources) -> Result<String, ConfigError> {
        let values = sources.read()?;
        let mut text = String::new();
        for setting in SETTINGS {
            let value = match (values.text(setting.key), setting.is_secret) {
                (None, _) => "unset",
                (Some(_), true) => "***",
                (Some(text), false) => text,
            };
            write!(text, "{}={value} ", setting.key).expect("a String takes everything");
        }
        Ok(text.trim_end().into())
    }
}

fn keys(values: &Values) -> Result<Keyring, ConfigError> {
    let (newest, older) = match (values.get("master_key"), values.get("master_key_old")) {
        (Some(newest), older) => (newest, older),
        (None, None) => return Ok(Keyring::default()),
        (None, Some(older)) => {
            return Err(error(
                &older.name,
                "is set but BATONQ_MASTER_KEY is not: nothing could be sealed. Keep the newest \
                 key in BATONQ_MASTER_KEY",
            ));
        }
    };
    let texts = older.map_or("", |older| &older.text).split(',').map(str::trim);
    let texts = texts.filter(|text| !text.is_empty());
    Keyring::parse(&newest.text, texts).map_err(|(place, refused)| match (place, older) {
        (1.., Some(older)) => error(&older.name, format!("key {place} of it {refused}")),
        _ => error(&newest.name, refused.to_string()),
    })
}

fn store(values: &Values) -> Result<StoreConfig, ConfigError> {
    let is_cluster = values.switch("cluster_mode")?;
    let Some(url) = values.get("database_url") else {
        if is_cluster {
            return Err(error(
                "CLUSTER_MODE",
                "is 1 but DATABASE_URL is not set: a cluster shares a Postgres database. Set \
                 DATABASE_URL to a postgres:// URL, or set CLUSTER_MODE=0 to run one node on the \
                 embedded database",
            ));
        }
        let dir = values.parse("data_dir", |text| Some(text.into()), "a directory")?;
        return Ok(StoreConfig::Embedded(dir));
    };
    if is_cluster && url.text.starts_with("sqlite") {
        return Err(error(
            "CLUSTER_MODE",
            "is 1 but DATABASE_URL names an SQLite file: a cluster shares a Postgres database. \
             Set DATABASE_URL to a postgres:// URL, or set CLUSTER_MODE=0 and unset DATABASE_URL \
             to run one node on the files in BATONQ_DATA_DIR",
        ));
    }
    let connections_max =
        values.parse("database_connections", |text| text.parse().ok(), "a number")?;
    if connections_max < CONNECTIONS_MIN {
        let detail = format!("must be at least {CONNECTIONS_MIN}: a node needs as many");
        return Err(error("BATONQ_DATABASE_CONNECTIONS", detail));
    }
    let (heartbeat_interval, stale_after) =
        (values.duration("node_heartbeat_interval")?, values.duration("node_stale_after")?);
    if heartbeat_interval < Duration::from_secs(1) {
        return Err(error("BATONQ_NODE_HEARTBEAT_INTERVAL", "must be at least 1s"));
    }
    if stale_after < heartbeat_interval * 2 {
        let detail = "must be at least twice BATONQ_NODE_HEARTBEAT_INTERVAL, or living nodes are \
                      shown as stale";
        return Err(error("BATONQ_NODE_STALE_AFTER", detail));
    }
    let profile = values.parse("leader_profile", Profile::parse, "default or fast")?;
    let database = database(values)?;
    let shared =
        SharedConfig { database, connections_max, heartbeat_interval, stale_after, profile };
    Ok(StoreConfig::Shared(Box::new(shared)))
}

fn database(values: &Values) -> Result<Database, ConfigError> {
    let password = values.text("database_password");
    let dsn = |key: &str| {
        let parse = |value: &Value| {
            Dsn::parse(&value.text, password).map_err(|detail| {
                error(
                    &value.name,
                    format!("can not be used: {detail}. Give postgres://USER@HOST/DB"),
                )
            })
        };
        values.get(key).map(parse).transpose()
    };
    let migrate = |text: &str| match text {
        "auto" => Some(Migrate::Auto),
        "off" => Some(Migrate::Off),
        _ => None,
    };
    let schema = |text: &str| {
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_good = (1..=40).contains(&text.len()) && text.bytes().all(is_plain);
        is_good.then(|| text.to_owned())
    };
    let missing = || error("DATABASE_URL", "is not set: give postgres://USER@HOST/DB");
    Ok(Database {
        dsn: dsn("database_url")?.ok_or_else(missing)?,
        direct: dsn("direct_database_url")?,
        schema: values.parse("schema", schema, "a name of 1 to 40 letters a-z 0-9 _")?,
        migrate: values.parse("migrate", migrate, "auto or off")?,
    })
}

/// What should be the same on all nodes; where it is not, they treat the same job differently.
const SAME_EVERYWHERE: [&str; 12] = [
    "tokens",
    "master_key",
    "master_key_old",
    "insecure",
    "heartbeat_interval",
    "heartbeat_timeout",
    "reconnect_grace",
    "keep_completed",
    "keep_completed_max",
    "keep_dead",
    "node_stale_after",
    "leader_profile",
];

/// Twelve digits that tell whether two nodes were told the same. Nothing can be read from them.
fn fingerprint(values: &Values) -> String {
    let mut hash = Sha256::new();
    for key in SAME_EVERYWHERE {
        hash.update(key);
        hash.update([0]);
        hash.update(values.text(key).unwrap_or_default());
        hash.update([0]);
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn bind(values: &Values, access: &Access) -> Result<IpAddr, ConfigError> {
    let default = if access.is_open() { "127.0.0.1" } else { "0.0.0.0" };
    let text = values.text("bind").unwrap_or(default);
    let name = values.get("bind").map_or("BATONQ_BIND", |value| &value.name);
    let address: IpAddr =
        text.parse().map_err(|_| error(name, format!("{text:?} is not an IP address")))?;
    if access.is_open() && !address.is_loopback() && !values.switch("insecure")? {
        let detail = format!(
            "{address} can be reached from outside and there are no tokens: set BATONQ_TOKENS, or \
             bind to 127.0.0.1, or set BATONQ_INSECURE=1 to let everybody in"
        );
        return Err(error(name, detail));
    }
    Ok(address)
}

fn node_id(values: &Values) -> Result<String, ConfigError> {
    let Some(value) = values.get("node_id") else {
        return Ok(format!("node-{:08x}", rand::random::<u32>()));
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    match value.text.len() <= 128 && value.text.bytes().all(is_plain) {
        true => Ok(value.text.clone()),
        false => Err(error(&value.name, "must have 1 to 128 letters of A-Z a-z 0-9 . _ : -")),
    }
}

fn patience(values: &Values) -> Result<Patience, ConfigError> {
    let patience = Patience {
        heartbeat_interval: values.duration("heartbeat_interval")?,
        heartbeat_timeout: values.duration("heartbeat_timeout")?,
        reconnect_grace: values.duration("reconnect_grace")?,
    };
    let least = Duration::from_millis(100);
    if patience.heartbeat_interval < least {
        return Err(error("BATONQ_HEARTBEAT_INTERVAL", "must be at least 100ms"));
    }
    if patience.heartbeat_timeout < patience.heartbeat_interval * 2 {
        let detail = "must be at least twice BATONQ_HEARTBEAT_INTERVAL, or one late sign of life \
                      costs a worker its jobs";
        return Err(error("BATONQ_HEARTBEAT_TIMEOUT", detail));
    }
    Ok(patience)
}

/// In no file and no flag: it is nobody's setting.
#[cfg(feature = "mutants")]
fn mutant(sources: &Sources, values: &Values) -> Result<Option<Mutant>, ConfigError> {
    let Some(name) = sources.env.get(mutants::SETTING).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if values.get("database_url").is_none() {
        return Err(error(mutants::SETTING, "needs a shared store: set DATABASE_URL"));
    }
    let mutant = Mutant::parse(name);
    let unknown = |names| error(mutants::SETTING, format!("{name:?} is none of {names}"));
    mutant.map(Some).map_err(unknown)
}

/// A number and its unit, as `500ms`, `10s`, `2m`, `24h` or `30d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    const KEY: &str = "5ca1ab1e000102030405060708090a0b0c0d0e0f101112131415161718191a1b";

    fn env(pairs: &[(&str, &str)]) -> Sources {
        Sources { env: map(pairs), ..Sources::default() }
    }

    #[test]
    fn a_flag_comes_before_the_environment_and_that_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("batonq.toml");
        std::fs::write(&file, "port = 1\nhttp_port = 2\ndrain_timeout = \"7s\"\n").unwrap();
        let sources = Sources {
            flags: map(&[("port", "11")]),
            env: map(&[("PORT", "12"), ("HTTP_PORT", "13")]),
            file: Some(file),
        };
        let config = Config::load(&sources).unwrap();
        assert_eq!((config.port, config.http_port), (11, Some(13)));
        assert_eq!(config.drain_timeout, Duration::from_secs(7));
        assert_eq!(config.patience.heartbeat_interval, Duration::from_secs(5));
    }

    #[test]
    fn what_can_not_be_used_stops_the_start_and_is_named() {
        for (pairs, name, part) in [
            (&[("CLUSTER_MODE", "1")][..], "CLUSTER_MODE", "DATABASE_URL"),
            (
                &[("CLUSTER_MODE", "1"), ("DATABASE_URL", "sqlite:x")],
                "CLUSTER_MODE",
                "DATABASE_URL",
            ),
            (&[("DATABASE_URL", "sqlite:x")], "DATABASE_URL", "postgres://"),
            (&[("DATABASE_URL", "postgres://h/d?sslmode=no")], "DATABASE_URL", "sslmode"),
            (
                &[("DATABASE_URL", "postgres://h/d"), ("BATONQ_SCHEMA", "a;b")],
                "BATONQ_SCHEMA",
                "letters",
            ),
            (
                &[("DATABASE_URL", "postgres://h/d"), ("BATONQ_DATABASE_CONNECTIONS", "3")],
                "BATONQ_DATABASE_CONNECTIONS",
                "at least",
            ),
            (
                &[("DATABASE_URL", "postgres://h/d"), ("BATONQ_NODE_STALE_AFTER", "11s")],
                "BATONQ_NODE_STALE_AFTER",
                "twice",
            ),
            (
                &[("DATABASE_URL", "postgres://h/d"), ("BATONQ_LEADER_PROFILE", "quick")],
                "BATONQ_LEADER_PROFILE",
                "fast",
            ),
            (
                &[("DATABASE_URL", "postgres://h/d"), ("BATONQ_MIGRATE", "yes")],
                "BATONQ_MIGRATE",
                "auto",
            ),
            (&[("BATONQ_PROT", "1")], "BATONQ_PROT", "no setting"),
            (&[("PORT", "70000")], "PORT", "65535"),
            (&[("PORT", "-1")], "PORT", "65535"),
            (&[("HTTP", "yes")], "HTTP", "1 or 0"),
            (&[("BATONQ_KEEP_DEAD", "30")], "BATONQ_KEEP_DEAD", "unit"),
            (&[("BATONQ_TOKENS", "s3cret:root")], "BATONQ_TOKENS", "admin"),
            (&[("BATONQ_MASTER_KEY", "s3cret")], "BATONQ_MASTER_KEY", "64 hex digits"),
            (&[("BATONQ_MASTER_KEY_OLD", KEY)], "BATONQ_MASTER_KEY_OLD", "BATONQ_MASTER_KEY"),
            (
                &[("BATONQ_MASTER_KEY", KEY), ("BATONQ_MASTER_KEY_OLD", "s3cret")],
                "BATONQ_MASTER_KEY_OLD",
                "key 1 of it must be 64 hex digits",
            ),
            (&[("BATONQ_BIND", "0.0.0.0")], "BATONQ_BIND", "BATONQ_TOKENS"),
            (&[("BATONQ_CORS_ORIGINS", "jobs.example.com")], "BATONQ_CORS_ORIGINS", "no origin"),
            (&[("BATONQ_BIND", "here")], "BATONQ_BIND", "IP address"),
            (&[("NODE_ID", "a b")], "NODE_ID", "letters"),
            (&[("BATONQ_LOG_FORMAT", "xml")], "BATONQ_LOG_FORMAT", "json"),
            (&[("BATONQ_HEARTBEAT_TIMEOUT", "6s")], "BATONQ_HEARTBEAT_TIMEOUT", "twice"),
        ] {
            let refused = Config::load(&env(pairs)).unwrap_err();
            assert_eq!(refused.name, name);
            assert!(refused.detail.contains(part), "{refused}");
            let is_told = refused.detail.contains("s3cret") || refused.detail.contains(KEY);
            assert!(!is_told, "{refused}");
        }
    }

    #[cfg(not(feature = "mutants"))]
    #[test]
    fn a_release_can_not_be_made_a_mutant() {
        let sources = env(&[("DATABASE_URL", "postgres://h/d"), ("BATONQ_MUTANT", "skip-fence")]);
        let refused = Config::load(&sources).unwrap_err();
        assert_eq!(refused.to_string(), "BATONQ_MUTANT: is no setting: see batonq serve --help");
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn a_mutant_is_chosen_by_its_name_on_a_shared_store() {
        let load = |pairs: &[(&str, &str)]| Config::load(&env(pairs));
        let shared = ("DATABASE_URL", "postgres://h/d");
        let chosen = load(&[shared, ("BATONQ_MUTANT", "skip-fence")]).unwrap().mutant;
        assert_eq!(chosen, Some(Mutant::SkipFence));
        assert_eq!(load(&[shared, ("BATONQ_MUTANT", "")]).unwrap().mutant, None);
        let unknown = load(&[shared, ("BATONQ_MUTANT", "skip")]).unwrap_err();
        assert!(unknown.detail.contains("drop-for-share, early-recovery"), "{unknown}");
        let alone = load(&[("BATONQ_MUTANT", "skip-fence")]).unwrap_err();
        assert!(alone.detail.contains("DATABASE_URL"), "{alone}");
    }

    #[test]
    fn without_tokens_only_loopback_is_bound() {
        let bind = |pairs| Config::load(&env(pairs)).unwrap().bind.to_string();
        assert_eq!(bind(&[]), "127.0.0.1");
        assert_eq!(bind(&[("BATONQ_TOKENS", "t:admin")]), "0.0.0.0");
        assert_eq!(bind(&[("BATONQ_BIND", "::"), ("BATONQ_INSECURE", "1")]), "::");
    }

    #[test]
    fn a_secret_comes_from_a_file_and_is_not_printed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens");
        std::fs::write(&file, "s3cret:admin\n").unwrap();
        let sources = env(&[("BATONQ_TOKENS_FILE", file.to_str().unwrap())]);
        let config = Config::load(&sources).unwrap();
        assert!(config.access.authenticate(Some("s3cret")).is_ok());
        let printed = Config::describe(&sources).unwrap();
        assert!(printed.contains("tokens=***") && !printed.contains("s3cret"), "{printed}");
    }

    #[test]
    fn a_master_key_is_not_printed_and_makes_nodes_differ() {
        let load = |pairs| Config::load(&env(pairs)).unwrap();
        let (with, without) = (load(&[("BATONQ_MASTER_KEY", KEY)]), load(&[]));
        assert!(with.keys.newest().is_some() && without.keys.newest().is_none());
        assert_ne!(with.fingerprint, without.fingerprint);
        let shown = format!("{with:?}");
        let described = Config::describe(&env(&[("BATONQ_MASTER_KEY", KEY)])).unwrap();
        assert!(!shown.contains("5ca1ab1e") && !described.contains("5ca1ab1e"));
    }

    #[test]
    fn a_file_with_an_unknown_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("batonq.toml");
        std::fs::write(&file, "prot = 1\n").unwrap();
        let refused = Config::load(&Sources { file: Some(file), ..Sources::default() });
        assert!(refused.unwrap_err().name.starts_with("prot in "));
    }
}
