//! Server connections that many sessions share: one [`Pool`] per database, user and host.
//!
//! A [`Lease`] is the right to one connection. Dropping it closes the connection; handing it back is
//! an explicit call. Tenants wait fairly (`fair.rs`, by the lines in `line.rs`), and pools share what their host may have
//! ([`Budget`], which does what `keeper.rs` plans), with what they are promised cut to that (`cut.rs`).

mod apportion;
mod budget;
mod conn;
mod cut;
mod ending;
mod fair;
mod fence;
mod keeper;
mod lease;
mod line;
mod member;
mod places;
mod prepared;
mod probe;
mod queue;
mod seat;
mod settings;
mod weight;

pub use budget::{Asking, Budget, Budgets, Place};
pub use conn::{Conn, Sequences, Settings, Speaker, Unlisted};
pub use fair::{ROTATION, Terms};
pub use fence::{CancelTarget, Fence, FenceGuard};
pub use lease::Lease;
pub use member::{Member, Waiting};
pub use places::Purpose;
pub use prepared::{Environment, OUR_NAMES, Prepared, Shape, Statement, Statements, server_name};
pub use probe::{Held, Holdings, MARK, probe, settings_now};
pub use queue::{AcquireError, Pool, PoolCensus, PoolKey};
pub use seat::{Seat, Seated};
pub use settings::{difference, literal, quoted};
