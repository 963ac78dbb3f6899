//! How many clients may be connected: all together, before they have proved who they are, and of one user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{Listen, UserConfig};
use crate::tenant::{Count, Taken};
use crate::wire::error::PgError;

/// Counts clients against the ceilings of `[listen]` and of users. Outlives a reload, so that clients
/// who are there already count under the new ceilings.
#[derive(Debug, Default)]
pub struct Places {
    clients: Count,
    unauthenticated: Count,
    users: Mutex<HashMap<String, usize>>,
}

impl Places {
    /// A connection has been accepted. `None` when `max_unauthenticated` others have not finished
    /// authentication yet: it can only be closed.
    pub fn enter(self: &Arc<Self>, listen: &Listen) -> Option<Entry> {
        let unauthenticated = self.unauthenticated.take(listen.max_unauthenticated).ok()?;
        Some(Entry { client: self.clients.take(listen.max_clients).ok(), unauthenticated: Some(unauthenticated) })
    }

    /// Connections that have not finished authentication.
    pub fn unauthenticated(&self) -> usize {
        self.unauthenticated.get()
    }

    /// Takes one of the user's places.
    ///
    /// Errors: 53300 when all are taken.
    pub fn admit(self: &Arc<Self>, user: &UserConfig) -> Result<UserPlace, PgError> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let live = users.entry(user.name.clone()).or_default();
        match user.max_clients {
            Some(most) if *live >= most => Err(full_user(&user.name, *live, most)),
            _ => {
                *live += 1;
                Ok(UserPlace { places: self.clone(), user: user.name.as_str().into() })
            }
        }
    }
}

/// A connection's place among all, given back when dropped.
#[derive(Debug)]
pub struct Entry {
    /// `None` where there was none left.
    client: Option<Taken>,
    unauthenticated: Option<Taken>,
}

impl Entry {
    /// The client has proved who it is.
    ///
    /// Errors: 53300 when `max_clients` others were there before it. It is told only now because it
    /// would not understand an error before its startup packet has been answered.
    pub fn authenticated(&mut self, listen: &Listen) -> Result<(), PgError> {
        self.unauthenticated = None;
        if self.client.is_some() {
            return Ok(());
        }
        Err(PgError::fatal("53300", "sorry, too many clients already")
            .detail(format!("The limit is {} ([listen] max_clients).", listen.max_clients))
            .hint("Close connections that are not in use, or raise max_clients in pgweir's configuration."))
    }
}

/// A client's place within its user's `max_clients`, given back when dropped.
#[derive(Debug)]
pub struct UserPlace {
    places: Arc<Places>,
    user: Box<str>,
}

impl Drop for UserPlace {
    fn drop(&mut self) {
        let mut users = self.places.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = users.get_mut(&*self.user) {
            *live -= 1;
            if *live == 0 {
                users.remove(&*self.user);
            }
        }
    }
}

/// PostgreSQL's own words (`InitializeSessionUserId`), with the numbers.
fn full_user(name: &str, live: usize, most: usize) -> PgError {
    PgError::fatal("53300", format!("too many connections for role \"{name}\""))
        .detail(format!("{live} are open, {most} allowed."))
        .hint("Close connections that are not in use, or raise max_clients of the user in pgweir's configuration.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UserAuth;

    fn listen(max_clients: usize, max_unauthenticated: usize) -> Listen {
        Listen { max_clients, max_unauthenticated, ..Listen::default() }
    }

    #[test]
    fn those_who_came_first_stay_and_the_next_is_told_why_it_cannot() {
        let (places, listen) = (Arc::new(Places::default()), listen(2, 10));
        let mut entries: Vec<_> = (0..3).map(|_| places.enter(&listen).unwrap()).collect();
        assert_eq!(places.unauthenticated(), 3);
        let mut third = entries.pop().unwrap();
        let error = third.authenticated(&listen).unwrap_err();
        assert_eq!((error.code.as_ref(), &*error.message), ("53300", "sorry, too many clients already"));
        assert!(error.detail.unwrap().contains("limit is 2 "));
        assert!(entries.iter_mut().all(|entry| entry.authenticated(&listen).is_ok()));
        drop((third, entries));
        assert!(places.enter(&listen).unwrap().authenticated(&listen).is_ok());
        assert_eq!((places.unauthenticated(), places.clients.get()), (0, 0));
    }

    #[test]
    fn strangers_have_a_ceiling_of_their_own() {
        let (places, listen) = (Arc::new(Places::default()), listen(10, 1));
        let mut first = places.enter(&listen).unwrap();
        assert!(places.enter(&listen).is_none());
        first.authenticated(&listen).unwrap();
        assert!(places.enter(&listen).is_some());
    }

    #[test]
    fn a_user_has_so_many_places_and_gets_them_back() {
        let places = Arc::new(Places::default());
        let user = UserConfig {
            name: "app".to_owned(),
            auth: UserAuth::Trust,
            server_user: None,
            server_password: None,
            databases: Vec::new(),
            max_clients: Some(1),
            replication: true,
            admin: false,
            may_set_tenant: false,
        };
        let place = places.admit(&user).unwrap();
        assert_eq!(places.admit(&user).unwrap_err().code, "53300");
        assert!(places.admit(&UserConfig { name: "other".to_owned(), ..user.clone() }).is_ok());
        drop(place);
        assert!(places.admit(&user).is_ok());
    }
}
