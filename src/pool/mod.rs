//! Server connections that many sessions share: one [`Pool`] per database, user and host.
//!
//! A [`Lease`] is the right to one connection. Dropping it closes the connection; handing it back is
//! an explicit call. Waiters are served first in, first out.

mod conn;
mod fence;
mod lease;
mod prepared;
mod probe;
mod queue;
mod settings;

pub use conn::{Conn, Sequences, Settings, Speaker};
pub use fence::{CancelTarget, Fence, FenceGuard};
pub use lease::Lease;
pub use prepared::{Environment, OUR_NAMES, Prepared, Shape, Statement, Statements, server_name};
pub use probe::{Held, Holdings, MARK, probe, settings_now};
pub use queue::{AcquireError, Pool, PoolCensus, PoolKey, Waiting};
pub use settings::{difference, literal, quoted};
