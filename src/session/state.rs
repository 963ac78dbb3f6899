//! The session state that a client has made: its settings, and what only one server connection has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use super::guarding::Guards;
use super::refusal;
use super::switching::TENANT;
use crate::cluster::{Defaults, Greeting};
use crate::config::{Consistency, Tier};
use crate::pool::{Environment, Held, Holdings, Settings, literal};
use crate::sql::{Class, Effects, Scope, SettingNames, TxControl, Verdict, mentions};
use crate::tenant::{clamp, parse_guc_milliseconds};
use crate::wire::error::PgError;

/// The setting that says what a session's reads have to see.
pub const CONSISTENCY: &str = "pgweir.consistency";
/// What the names of settings begin with that mean something to pgweir.
pub(super) const OWN_SETTINGS: &str = "pgweir.";
/// The setting in whose encoding a client is answered.
const CLIENT_ENCODING: &str = "client_encoding";
pub const SEARCH_PATH: &str = "search_path";
pub(super) const STATEMENT_TIMEOUT: &str = "statement_timeout";
pub(super) const LOCK_TIMEOUT: &str = "lock_timeout";
/// What the names of the settings have in common that a tier holds a ceiling on.
const TIMEOUT: &[u8] = b"_timeout";
/// Milliseconds that a statement of the proxy's own, which takes some 50 µs, may need on a busy machine.
const SHORT_TIMEOUT: u64 = 100;
/// Names of custom settings that are remembered; a session with more is pinned.
const LONGEST_MENTIONED: usize = 256;
/// Bytes of a text that is searched for `DISCARD ALL`.
const LONGEST_COMMAND: usize = 1024;

/// What a session wants a server connection to be like.
pub(super) struct State {
    /// Settings as the server spells them.
    pub settings: Arc<Settings>,
    /// State that no other connection can be given: the session stays where it is.
    pub held: Option<Held>,
    /// What a `RESET` goes back to.
    base: Arc<Settings>,
    /// Custom settings (`app.tenant`) that were mentioned: `pg_settings` does not show them.
    mentioned: BTreeSet<String>,
    /// A setting was made of which we do not know the name.
    hidden: bool,
    /// What every statement asks of the settings.
    said: Said,
    /// A hash of the settings that say how statements are parsed.
    environment: u64,
    /// One of those may have been changed.
    environment_touched: bool,
    /// Names may mean something else by now ([`SettingNames::move_names`]).
    names_moved: bool,
    /// What has to be asked once all is answered.
    asks: Asks,
    /// Since the server was last known to be idle something was sent that opens or shapes a transaction.
    in_transaction: bool,
    /// State was made that nothing shows and nothing undoes.
    sticky: bool,
    /// The client was told which server process it has.
    knows_process: bool,
    /// Within a transaction a statement may have reset what the client made at its startup: until its end (`SET LOCAL`),
    /// or for good.
    base_touched: Option<Reset>,
    /// The client has asked for the values of its sequences, and not within the transaction that has drawn them.
    reads_sequences: bool,
    /// A statement may have changed a timeout on which there is a ceiling.
    timeout_touched: bool,
    /// One of its transaction has set one, perhaps to less than that ceiling.
    timeout_said: bool,
    /// What is held for its tenant may have been changed in a way that was not seen.
    pub guards: Guards,
    limits: Arc<Tier>,
    defaults: Arc<Defaults>,
}

/// What settings say, those included that a session has without settings of its own.
#[derive(Default)]
struct Said {
    consistency: Option<Consistency>,
    /// Transactions are serializable, unless they say otherwise.
    serializable: bool,
    /// Transactions are read-only, unless they say otherwise.
    read_only: bool,
    /// There is a search path among them.
    search_path: bool,
    /// The statement timeout could strike a statement of the proxy's.
    short_timeout: bool,
}

/// A session's own limits and settings, while it works for another tenant.
pub(super) struct Covered {
    limits: Arc<Tier>,
    settings: Arc<Settings>,
    base: Arc<Settings>,
    /// Its settings as that tenant's.
    over: Arc<Settings>,
}

/// What a session has to be asked after statements that touched its state.
#[derive(Debug, Default)]
enum Asks {
    #[default]
    Nothing,
    /// These settings, and nothing else has changed.
    Settings(Box<Made>),
    Everything,
}

/// For how long something is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reset {
    Local,
    Session,
}

/// Names of settings. Few sessions have any: they are kept elsewhere.
#[derive(Debug)]
pub(super) struct Made(pub BTreeSet<String>);

impl State {
    pub fn new(greeting: &Greeting, limits: Arc<Tier>) -> Self {
        let custom = greeting.settings.keys().filter(|name| name.contains('.')).cloned();
        let mut state = Self {
            settings: greeting.settings.clone(),
            base: greeting.settings.clone(),
            held: None,
            mentioned: custom.collect(),
            hidden: false,
            environment: 0,
            said: Said::default(),
            environment_touched: false,
            names_moved: false,
            asks: Asks::Nothing,
            in_transaction: false,
            sticky: false,
            knows_process: false,
            base_touched: None,
            reads_sequences: false,
            timeout_touched: false,
            timeout_said: false,
            guards: Guards::default(),
            limits,
            defaults: greeting.defaults.clone(),
        };
        state.settings_have_changed();
        state.base = state.settings.clone();
        state
    }

    pub fn has_startup_settings(&self) -> bool {
        !self.base.is_empty()
    }

    pub fn search_path(&self) -> &str {
        let own = if self.said.search_path { self.settings.get(SEARCH_PATH) } else { None };
        own.unwrap_or(&self.defaults.search_path)
    }

    /// Where unqualified names are looked up now.
    pub fn scope(&self) -> Scope<'_> {
        if self.names_moved { Scope::Any } else { Scope::Session(Some(self.search_path())) }
    }

    /// Until the transaction is over, nobody knows where they are.
    pub fn names_have_moved(&self) -> bool {
        self.names_moved
    }

    /// The encoding that the session has asked for.
    pub fn client_encoding(&self) -> Option<&str> {
        self.settings.get(CLIENT_ENCODING).map(String::as_str)
    }

    /// The settings under which a statement is parsed now.
    pub fn environment(&self) -> Environment {
        // What a name means there depends on the session's own tables.
        if self.environment_touched || self.held == Some(Held::Temporary) {
            return Environment::Unknown;
        }
        Environment::Known(self.environment)
    }

    /// Transactions are serializable unless they say otherwise, and a standby refuses those.
    pub fn is_serializable(&self) -> bool {
        self.said.serializable
    }

    /// Transactions are read-only unless they say otherwise.
    pub fn default_read_only(&self) -> bool {
        self.said.read_only
    }

    /// What the session's reads have to see, where it has said so.
    pub fn consistency(&self) -> Option<Consistency> {
        self.said.consistency
    }

    /// Remembers what a statement that touches session state mentions.
    pub fn note(&mut self, text: &[u8], names: SettingNames, effects: Effects, in_transaction: bool) {
        self.in_transaction |= in_transaction;
        self.ask(&names, effects);
        self.mentioned.extend(names.names.into_iter().filter(|name| name.contains('.')));
        self.sticky |= effects.contains(Effects::STICKY);
        self.hidden |= effects.contains(Effects::HIDDEN) || names.unknown || self.mentioned.len() > LONGEST_MENTIONED;
        if !self.in_transaction && ends_with_reset(text) {
            (self.hidden, self.mentioned) = (false, BTreeSet::new());
        }
    }

    /// Code may make these custom settings that the session's own texts do not mention.
    pub fn mention(&mut self, names: impl Iterator<Item = String>) {
        self.mentioned.extend(names);
    }

    /// Custom settings that are new to the session: even a `SET LOCAL` leaves them behind, empty.
    pub fn leaves_new(&self, names: &SettingNames) -> bool {
        names.names.iter().any(|name| name.contains('.') && !self.settings.contains_key(name))
    }

    /// Remembers whether a statement may have changed how others are parsed, or how long they may take, until that is known.
    pub fn note_environment(&mut self, names: &SettingNames, effects: Effects) {
        self.timeout_said |= names.all || self.timeouts().into_iter().any(|timeout| may_lower(timeout, names));
        self.names_moved |= names.move_names(effects);
        let settings_only = !names.names.is_empty() && !names.unknown && !effects.contains(Effects::HIDDEN);
        self.environment_touched |= !settings_only || !names.names.iter().all(|name| is_for_execution(name));
    }

    /// The transaction is over, and what the session has is known.
    pub fn settled(&mut self) {
        self.environment_touched = false;
        self.names_moved = false;
        self.timeout_said = false;
        self.asks = Asks::Nothing;
        self.in_transaction = false;
        self.base_touched = None;
        self.guards = Guards::default();
    }

    /// A statement opens or shapes a transaction: the settings made from now on may be undone with it.
    pub fn enters_transaction(&mut self) {
        self.in_transaction = true;
    }

    /// Something was sent that opens or shapes a transaction, and is not over for all that is known.
    pub fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    pub fn knows_process(&self) -> bool {
        self.knows_process
    }

    /// The client is told which server process it has, and keeps it from then on: true when that is new.
    pub fn keeps_process(&mut self) -> bool {
        self.knows_process = true;
        let new = self.held.is_none();
        self.held = self.held.or(Some(Held::Process));
        new
    }

    pub fn sequences_are_read(&mut self) {
        self.reads_sequences = true;
    }

    pub fn reads_sequences(&self) -> bool {
        self.reads_sequences
    }

    /// A statement may make the session forget the values of its sequences.
    pub fn note_discard(&mut self, text: &[u8]) {
        if self.reads_sequences {
            let discards = |what: &str| matches!(what, "all" | "sequences");
            self.reads_sequences =
                !matches!(words(text).as_slice(), [.., verb, what] if verb == "discard" && discards(what));
        }
    }

    /// Something may have changed the session in whatever way.
    pub fn ask_everything(&mut self) {
        self.asks = Asks::Everything;
    }

    /// A server error: settings that were sent may not have been made.
    pub fn failed(&mut self) {
        if matches!(self.asks, Asks::Settings(_)) {
            self.asks = Asks::Everything;
        }
    }

    /// The settings that have to be asked now; `None` where everything has.
    pub fn take_made(&mut self) -> Option<Box<Made>> {
        match std::mem::take(&mut self.asks) {
            Asks::Settings(made) => Some(made),
            Asks::Nothing | Asks::Everything => None,
        }
    }

    /// Settings alone are made, by name and outside of a transaction: what they are then is all there is to ask.
    fn ask(&mut self, names: &SettingNames, effects: Effects) {
        const PLAIN: Effects = Effects::STATE.with(Effects::READ_ONLY_SETTING);
        // A role is more than a setting, those of a transaction and the seed are less, a timeout is reckoned with (it
        // has to be known without its unit), and on an encoding depends what is listened to.
        const NOT_PLAIN: [&str; 7] =
            ["role", "session_authorization", "is_superuser", "seed", CLIENT_ENCODING, STATEMENT_TIMEOUT, LOCK_TIMEOUT];
        let is_plain = |name: &String| !NOT_PLAIN.contains(&name.as_str()) && !name.starts_with("transaction_");
        let plain = !self.in_transaction
            && PLAIN.contains(effects)
            && !names.names.is_empty()
            && !names.unknown
            && !names.resets
            && names.names.iter().all(is_plain);
        match &mut self.asks {
            Asks::Settings(made) if plain => made.0.extend(names.names.iter().cloned()),
            asks @ Asks::Nothing if plain => {
                *asks = Asks::Settings(Box::new(Made(names.names.iter().cloned().collect())));
            }
            asks => *asks = Asks::Everything,
        }
    }

    /// Remembers whether a statement may have changed a timeout on which there is a ceiling.
    pub fn note_timeout(&mut self, text: &[u8], verdict: Verdict) {
        let has_ceilings = self.limits.statement_timeout.or(self.limits.lock_timeout).is_some();
        if has_ceilings && verdict.class == Class::Primary {
            self.timeout_touched |= may_lift_timeouts(text, verdict);
        }
    }

    /// Remembers whether a statement may have reset settings of the startup.
    pub fn note_reset(&mut self, text: &[u8], effects: Effects) {
        let hidden = effects.contains(Effects::HIDDEN);
        if !self.base.is_empty() && (hidden || mentions(text, b"reset") || mentions(text, b"default")) {
            let reset = if effects.contains(Effects::STATE) { Reset::Session } else { Reset::Local };
            self.base_touched = self.base_touched.max(Some(reset));
        }
    }

    /// What makes the settings of the startup again that a statement has reset, within its transaction: there, they are
    /// what a `RESET` goes back to. `None` where no statement can have.
    pub fn base_again(&mut self) -> Option<String> {
        let local = self.base_touched.take()? == Reset::Local;
        let value = |(name, value): (&String, &String)| format!("({}, {})", literal(name), literal(value));
        let values: Vec<_> = self.base.iter().filter(|(name, _)| *name != "role").map(value).collect();
        // A custom setting is empty then, and others are no longer the session's.
        Some(format!(
            "SELECT pg_catalog.set_config(base.name, base.value, {local}) FROM (VALUES {}) AS base (name, value) \
             LEFT JOIN pg_catalog.pg_settings AS now \
             ON pg_catalog.lower(now.name) OPERATOR(pg_catalog.=) pg_catalog.lower(base.name) \
             WHERE now.source OPERATOR(pg_catalog.<>) 'session' OR now.name IS NULL \
             AND pg_catalog.current_setting(base.name, true) OPERATOR(pg_catalog.=) ''",
            values.join(", ")
        ))
    }

    /// The tenant that the session has named.
    pub fn tenant(&self) -> Option<&str> {
        self.settings.get(TENANT).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// That is what it has named, whatever it says.
    pub fn says_tenant(&mut self, name: Option<&str>) {
        let settings = Arc::make_mut(&mut self.settings);
        match name {
            Some(name) => drop(settings.insert(TENANT.into(), name.into())),
            None => drop(settings.remove(TENANT)),
        }
    }

    /// The session works for a tenant with these limits, and has the settings that are held for it, until it is uncovered.
    pub fn cover(&mut self, limits: Arc<Tier>) -> Covered {
        let own = (self.limits.clone(), self.settings.clone(), self.base.clone());
        // What was only as low as the ceiling of before, and nobody has asked for.
        let unasked = |(name, ceiling, default): Timeout| {
            let clamped = clamp(ceiling, u64::from(default));
            (clamped != u64::from(default)).then(|| (name, clamped.to_string()))
        };
        let unasked: Vec<_> = self.timeouts().into_iter().filter_map(unasked).collect();
        for settings in [&mut self.settings, &mut self.base] {
            let settings = Arc::make_mut(settings);
            settings.retain(|name, _| !self.limits.settings.contains_key(name));
            settings.retain(|name, value| !unasked.iter().any(|(known, ceiling)| known == name && ceiling == value));
            settings.extend(limits.settings.clone());
        }
        self.mentioned.extend(limits.settings.keys().filter(|name| name.contains('.')).cloned());
        self.limits = limits;
        hold_to(self.timeouts(), &mut self.base);
        self.settings_have_changed();
        let (limits, settings, base) = own;
        Covered { limits, settings, base, over: self.settings.clone() }
    }

    /// The session has its own limits and settings again, and what it has made of settings meanwhile.
    pub fn uncover(&mut self, covered: Covered) {
        let Covered { limits, mut settings, base, over } = covered;
        let made = std::mem::take(&mut self.settings);
        if made != over {
            let settings = Arc::make_mut(&mut settings);
            let held = |name: &String| limits.settings.contains_key(name);
            settings.retain(|name, _| made.contains_key(name) || !over.contains_key(name) || held(name));
            let new = made.iter().filter(|(name, value)| over.get(*name) != Some(value) && !held(name));
            settings.extend(new.map(|(name, value)| (name.clone(), value.clone())));
        }
        (self.limits, self.settings, self.base) = (limits, settings, base);
        self.settings_have_changed();
    }

    /// They are held to the ceilings, and read.
    fn settings_have_changed(&mut self) {
        hold_to(self.timeouts(), &mut self.settings);
        let settings = &*self.settings;
        let value = |name| settings.get(name).map(String::as_str);
        let timeout = value(STATEMENT_TIMEOUT).and_then(|value| value.parse().ok()).unwrap_or(0);
        self.environment = environment(settings);
        self.said = Said {
            consistency: value(CONSISTENCY).and_then(Consistency::named),
            serializable: value("default_transaction_isolation") == Some("serializable"),
            read_only: value("default_transaction_read_only").map_or(self.defaults.read_only, |value| value == "on"),
            search_path: settings.contains_key(SEARCH_PATH),
            short_timeout: (1..SHORT_TIMEOUT).contains(&timeout),
        };
    }

    /// What makes the settings again that are held for its tenant, within its transaction.
    pub fn guarded_again(&self) -> String {
        let held = self.base.iter().filter(|(name, _)| self.limits.settings.contains_key(*name));
        let set = |(name, value): (&String, &String)| {
            format!("pg_catalog.set_config({}, {}, true)", literal(name), literal(value))
        };
        format!("SELECT {}", held.map(set).collect::<Vec<_>>().join(", "))
    }

    pub fn take_timeout_touched(&mut self) -> bool {
        std::mem::take(&mut self.timeout_touched)
    }

    pub fn mentioned(&self) -> &BTreeSet<String> {
        &self.mentioned
    }

    /// Takes over what the server session was found to hold. The result is what this session wants
    /// from now on, on whichever connection.
    pub fn take(&mut self, holdings: Holdings) {
        let mut settings = holdings.settings;
        for (name, value) in self.base.iter() {
            // After a `RESET` a custom setting is empty.
            let lost = settings.get(name).is_none_or(|found| found.is_empty() && name.contains('.'));
            if lost {
                settings.insert(name.clone(), value.clone());
            }
        }
        for name in self.limits.settings.keys() {
            settings.extend(self.base.get(name).map(|value| (name.clone(), value.clone())));
        }
        self.settings = Arc::new(settings);
        let sticky = self.sticky.then_some(Held::Sticky);
        self.settings_have_changed();
        let process = self.knows_process.then_some(Held::Process);
        self.held = sticky.or(holdings.held).or(self.hidden.then_some(Held::Hidden)).or(process);
    }

    /// What the server session holds where only some settings have changed since that was last known.
    pub fn holdings_with(&self, changed: Holdings) -> Holdings {
        let mut settings = (*self.settings).clone();
        settings.extend(changed.settings);
        let held =
            self.held.filter(|held| !matches!(held, Held::Hidden | Held::Process | Held::Sequence | Held::Sticky));
        Holdings { settings, held, ..changed }
    }

    /// The session's own statement timeout could strike a statement of the proxy's.
    pub fn has_short_timeout(&self) -> bool {
        self.said.short_timeout
    }

    /// Is a timeout of its session's as high as its ceiling allows?
    pub fn is_at_ceiling(&self, name: &str, ceiling: Duration) -> bool {
        if self.timeout_said {
            return false;
        }
        let set = self.settings.get(name).and_then(|value| value.parse::<u128>().ok());
        set == Some(ceiling.as_millis())
    }

    /// The settings on which there is a ceiling, with that in milliseconds.
    pub fn ceilings(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.timeouts().into_iter().filter_map(|(name, ceiling, _)| Some((name, ceiling?.as_millis() as u64)))
    }

    /// Name, ceiling, and what a session has that does not set it, in milliseconds.
    fn timeouts(&self) -> [Timeout; 2] {
        [
            (STATEMENT_TIMEOUT, self.limits.statement_timeout, self.defaults.statement_timeout),
            (LOCK_TIMEOUT, self.limits.lock_timeout, self.defaults.lock_timeout),
        ]
    }
}

/// Name, ceiling, default: see [`State::timeouts`].
type Timeout = (&'static str, Option<Duration>, u32);

/// A client may lower its timeouts, and raise them up to the ceilings.
fn hold_to(timeouts: [Timeout; 2], settings: &mut Arc<Settings>) {
    for (name, ceiling, default) in timeouts.into_iter().filter(|(_, ceiling, _)| ceiling.is_some()) {
        let own = settings.get(name).and_then(|value| value.parse().ok());
        let asked = own.unwrap_or(u64::from(default));
        let clamped = clamp(ceiling, asked);
        if clamped != asked {
            Arc::make_mut(settings).insert(name.into(), clamped.to_string());
        }
    }
}

/// May this timeout be less than its ceiling by what a statement sets?
fn may_lower((name, ceiling, _): Timeout, names: &SettingNames) -> bool {
    let asked = |value: &str| u64::try_from(parse_guc_milliseconds(value)?).ok();
    let is_lower = |value: &str| asked(value).is_none_or(|asked| clamp(ceiling, asked) != clamp(ceiling, 0));
    let mut values = names.values.iter().filter(|(set, _)| set == name).peekable();
    let is_set = names.names.iter().any(|set| set == name);
    is_set && (names.resets || values.peek().is_none() || values.any(|(_, value)| is_lower(value)))
}

/// May a statement that changes the schema make code that sessions run without naming it? The catalog knows of what is made
/// for good, but not of what belongs to temporary relations: `temporary`, where it may be of one.
pub(super) fn makes_code(text: &[u8], temporary: bool) -> bool {
    const ON_ANY: [&[u8]; 2] = [b"trigger", b"rule"];
    const OF_ITSELF: [&[u8]; 7] = [b"default", b"check", b"generated", b"view", b"policy", b"index", b"statistics"];
    let says = |words: &[&[u8]]| words.iter().any(|word| mentions(text, word));
    says(&ON_ANY) || (temporary && says(&OF_ITSELF))
}

/// May a statement change a timeout of its session's?
pub(super) fn may_lift_timeouts(text: &[u8], verdict: Verdict) -> bool {
    // One that is undone may have been lowered.
    let undoes = matches!(verdict.tx, TxControl::Inside | TxControl::Mixed);
    undoes || verdict.effects.intersects(Effects::STATE | Effects::HIDDEN) || mentions(text, TIMEOUT)
}

/// A setting of pgweir's own is to be made. The server keeps it, but knows no values of it.
pub(super) fn own_setting(name: &str, value: &str) -> Result<(), PgError> {
    match name {
        CONSISTENCY if Consistency::named(value).is_some() => Ok(()),
        CONSISTENCY => Err(refusal::unknown_consistency(value)),
        TENANT => Ok(()),
        _ => Err(refusal::unknown_own_setting(name)),
    }
}

/// A hash of the settings that may matter where a statement is parsed.
fn environment(settings: &Settings) -> u64 {
    let mut hasher = Xxh3::new();
    for (name, value) in settings.iter().filter(|(name, _)| !is_for_execution(name)) {
        hasher.update(&(name.len() as u64).to_be_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&(value.len() as u64).to_be_bytes());
        hasher.update(value.as_bytes());
    }
    hasher.digest()
}

/// Does a setting matter only when statements are planned or run, or not even then? One that is not known to
/// counts as one that matters where they are parsed.
fn is_for_execution(name: &str) -> bool {
    const KNOWN: &[&str] = &[
        "application_name",
        "client_min_messages",
        "default_transaction_deferrable",
        "default_transaction_isolation",
        "default_transaction_read_only",
        "extra_float_digits",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "jit",
        "lock_timeout",
        "maintenance_work_mem",
        "plan_cache_mode",
        "statement_timeout",
        "synchronous_commit",
        "temp_buffers",
        "transaction_timeout",
        "work_mem",
    ];
    let prefixed = ["enable_", "log_", "max_parallel_", "track_"].iter().any(|prefix| name.starts_with(prefix));
    // Those with a dot are the application's own.
    prefixed || name.contains('.') || KNOWN.contains(&name)
}

/// Does it end with `RESET ALL` or `DISCARD ALL`?
fn ends_with_reset(text: &[u8]) -> bool {
    matches!(words(text).as_slice(), [.., reset, all] if matches!(&reset[..], "reset" | "discard") && all == "all")
}

/// The words of a short command, in lower case; none where the text is too long to be one.
fn words(text: &[u8]) -> Vec<String> {
    let text = if text.len() <= LONGEST_COMMAND { String::from_utf8_lossy(text) } else { Default::default() };
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect()
}
