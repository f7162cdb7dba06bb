//! What a run of `verify` is to be.

use std::path::{Path, PathBuf};

use batonq_verify::field::{
    Balancer, ClusterOptions, Drain, EmbeddedOptions, NODES_MAX, NamedOptions,
};
use batonq_verify::nemesis::Kind;
use batonq_verify::run::{Order, Stand, TheirDatabase};
use batonq_verify::summary::Summary;
use batonq_verify::{load, nemesis};

use crate::Shared;
use crate::exit::Failure;
#[cfg(feature = "mutants")]
use crate::output::note;

/// How often a node on its embedded database is killed.
const KILLS: u32 = 200;

/// Jobs for it.
const EMBEDDED_JOBS: u64 = 50_000;

/// Faults from outside, for a cluster that is there already.
const OUTSIDE: u32 = 23;

/// What is to be verified, and how hard.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Wanted {
    /// 3 nodes, 100 000 jobs and 36 faults, in about three minutes: what is done if nothing else
    /// is said
    #[arg(long, group = "profile")]
    quick: bool,

    /// 3 nodes, a million jobs and some 400 faults, in about half an hour
    #[arg(long, group = "profile")]
    soak: bool,

    /// One node on its embedded database, which is killed 200 times
    #[arg(long, group = "profile")]
    embedded: bool,

    /// What is done when follows from this number; by chance without it
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// So many nodes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(NODES_MAX)), conflicts_with = "embedded")]
    nodes: Option<u8>,

    /// So many jobs, over the time of the faults
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    jobs: Option<u64>,

    /// So many faults: of all kinds in the usual mix; kills with --embedded; with --url, what can
    /// be done from outside
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    faults: Option<u32>,

    /// Faults of this kind only, and of others that are named so, as often as each other
    #[arg(long, value_name = "KIND", requires = "faults", conflicts_with = "embedded")]
    only: Vec<Kind>,

    /// With --url: have nodes leave so often. Somebody must start them again, so say --yes too
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    drains: Option<u32>,

    /// With --drains: nodes that leave are started again
    #[arg(long, requires = "drains")]
    yes: bool,

    /// With --url: the Postgres of those nodes, without TLS, to read what is left in the end.
    /// Without it the nodes are asked, who do not tell what leaders did
    #[arg(long, value_name = "DSN")]
    database_url: Option<String>,

    /// With --database-url: the schema of their tables
    #[arg(long, value_name = "NAME", requires = "database_url")]
    schema: Option<String>,

    /// Another release of this program: every other node runs it, and rolling restarts change
    /// from one to the other
    #[arg(long, value_name = "PATH", conflicts_with = "embedded")]
    program: Option<PathBuf>,

    /// Have the nodes be wrong on purpose, in this way
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME", value_parser = parse_mutant, conflicts_with = "embedded")]
    mutant: Option<batonq_server::mutants::Mutant>,
}

#[cfg(feature = "mutants")]
fn parse_mutant(name: &str) -> Result<batonq_server::mutants::Mutant, String> {
    let unknown = |names| format!("write one of {names}");
    batonq_server::mutants::Mutant::parse(name).map_err(unknown)
}

impl Wanted {
    /// Of nodes that are wrong on purpose: says whether that was noticed.
    #[cfg(feature = "mutants")]
    pub(super) fn note_mutant(&self, summary: &Summary) {
        let Some(mutant) = self.mutant else { return };
        let (name, breaks) = (mutant.name(), mutant.noticed_by());
        let broken = summary.verdict.violated().map(|judgement| judgement.invariant.name());
        let broken: Vec<String> = broken.collect();
        let is_noticed = broken.iter().any(|broken| breaks.contains(&broken.as_str()));
        let word = if is_noticed { "noticed" } else { "NOT NOTICED" };
        let (broken, breaks) = (broken.join(", "), breaks.join(", "));
        note(&format!("verify: {name} was {word}: broken {broken}; it breaks one of {breaks}"));
    }

    #[cfg(not(feature = "mutants"))]
    pub(super) fn note_mutant(&self, _: &Summary) {}

    /// Refuses what a replay does not heed.
    pub(super) fn is_nothing(&self, shared: &Shared) -> Result<(), Failure> {
        let is_asked = self.seed.is_some()
            || self.nodes.is_some()
            || self.jobs.is_some()
            || self.faults.is_some()
            || !self.only.is_empty()
            || self.database_url.is_some()
            || self.program.is_some()
            || shared.url.is_some();
        match is_asked {
            true => Err(Failure::usage("--replay runs nothing: it has no other options of a run")),
            false => Ok(()),
        }
    }

    /// All that follows from the arguments.
    pub(super) fn order(&self, shared: &Shared, history: &Path) -> Result<Order, Failure> {
        self.check(shared)?;
        let seed = self.seed.unwrap_or_else(|| rand::random::<u32>().into());
        let history = history.to_owned();
        let (name, stand, load, faults) = match &shared.url {
            Some(url) => ("named", self.named(url, shared), self.quick_load(seed), self.outside()),
            None if self.embedded => {
                let options = EmbeddedOptions::new(program()?);
                let jobs = self.jobs.unwrap_or(EMBEDDED_JOBS);
                let load = load::Profile { jobs, ..load::Profile::quick(seed) };
                let faults = nemesis::Profile::embedded(self.faults.unwrap_or(KILLS));
                ("embedded", Stand::Embedded(options), load, faults)
            }
            None if self.soak => {
                let load = load::Profile::soak(seed);
                let load = load::Profile { jobs: self.jobs.unwrap_or(load.jobs), ..load };
                let load = load.on(self.nodes());
                ("soak", self.cluster()?, load, self.mixed(nemesis::Profile::soak()))
            }
            None => {
                let faults = self.mixed(nemesis::Profile::quick());
                ("quick", self.cluster()?, self.quick_load(seed).on(self.nodes()), faults)
            }
        };
        let repeat = self.repeat(seed, shared);
        Ok(Order { name: name.to_owned(), seed, repeat, stand, load, faults, history })
    }

    /// What to type to have the same again.
    fn repeat(&self, seed: u64, shared: &Shared) -> String {
        let profile = match (self.soak, self.embedded, &shared.url) {
            (true, ..) => " --soak",
            (_, true, _) => " --embedded",
            (.., Some(_)) => "",
            _ => " --quick",
        };
        let mut command = format!("batonq verify{profile}");
        let mut add = |option: &str, value: Option<String>| {
            if let Some(value) = value {
                command += &format!(" {option} {value}");
            }
        };
        add("--url", shared.url.clone());
        add("--seed", Some(seed.to_string()));
        add("--nodes", self.nodes.map(|count| count.to_string()));
        add("--jobs", self.jobs.map(|count| count.to_string()));
        add("--faults", self.faults.map(|count| count.to_string()));
        for kind in &self.only {
            add("--only", Some(kind.to_string()));
        }
        add("--drains", self.drains.map(|count| format!("{count} --yes")));
        add("--program", self.program.as_ref().map(|path| path.display().to_string()));
        #[cfg(feature = "mutants")]
        add("--mutant", self.mutant.map(|mutant| mutant.name().to_owned()));
        command
    }

    fn quick_load(&self, seed: u64) -> load::Profile {
        let load = load::Profile::quick(seed);
        load::Profile { jobs: self.jobs.unwrap_or(load.jobs), ..load }
    }

    /// So many faults as asked for, each as long as in the profile.
    fn mixed(&self, profile: nemesis::Profile) -> nemesis::Profile {
        match self.faults {
            Some(count) => {
                let asked = match self.only.is_empty() {
                    true => nemesis::Profile::mix(count),
                    false => nemesis::Profile::only(count, &self.only),
                };
                nemesis::Profile { counts: asked.counts, ..profile }
            }
            None => profile,
        }
    }

    fn outside(&self) -> nemesis::Profile {
        nemesis::Profile::outside(self.faults.unwrap_or(OUTSIDE), self.drains.unwrap_or(0))
    }

    /// Of a cluster of our own.
    fn nodes(&self) -> u8 {
        self.nodes.unwrap_or(ClusterOptions::NODES)
    }

    fn cluster(&self) -> Result<Stand, Failure> {
        let options = ClusterOptions::new(program()?);
        let nodes = self.nodes();
        let (balancer, other_program) = (Balancer::Nginx, self.program.clone());
        let settings = self.settings();
        Ok(Stand::Cluster(ClusterOptions { nodes, balancer, other_program, settings, ..options }))
    }

    #[cfg(feature = "mutants")]
    fn settings(&self) -> Vec<(String, String)> {
        let setting = |mutant: batonq_server::mutants::Mutant| {
            (batonq_server::mutants::SETTING.to_owned(), mutant.name().to_owned())
        };
        self.mutant.map(setting).into_iter().collect()
    }

    #[cfg(not(feature = "mutants"))]
    fn settings(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn named(&self, url: &str, shared: &Shared) -> Stand {
        let drain = if self.yes { Drain::Allowed } else { Drain::Never };
        let options = NamedOptions { urls: vec![url.to_owned()], token: shared.token(), drain };
        let schema = self.schema.clone().unwrap_or_default();
        let database = self.database_url.clone().map(|url| TheirDatabase { url, schema });
        Stand::Named(options, database)
    }

    /// Refuses what goes with a cluster that is there already, or only with that.
    fn check(&self, shared: &Shared) -> Result<(), Failure> {
        let is_named = shared.url.is_some();
        let theirs =
            [("--drains", self.drains.is_some()), ("--database-url", self.database_url.is_some())];
        let ours = [
            ("--only", !self.only.is_empty()),
            ("--soak", self.soak),
            ("--embedded", self.embedded),
            ("--nodes", self.nodes.is_some()),
            ("--program", self.program.is_some()),
        ];
        let wrong = |options: &[(&'static str, bool)]| {
            options.iter().find(|(_, is_given)| *is_given).map(|(name, _)| *name)
        };
        if let Some(name) = wrong(&theirs).filter(|_| !is_named) {
            return Err(Failure::usage(format!(
                "{name} is for a cluster that is there: say --url"
            )));
        }
        if let Some(name) = wrong(&ours).filter(|_| is_named) {
            return Err(Failure::usage(format!("{name} is for nodes of our own: not with --url")));
        }
        if self.drains.is_some() && !self.yes {
            let why = "nodes that were drained exit, and somebody must start them again";
            return Err(Failure::usage(format!("--drains needs --yes: {why}")));
        }
        if let Some(program) = self.program.as_deref().filter(|program| !program.is_file()) {
            return Err(Failure::usage(format!("there is no program {}", program.display())));
        }
        Ok(())
    }
}

/// Nodes run the program that this is.
fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(Failure::not_verified)
}
