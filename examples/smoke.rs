//! throwaway
use pgweir::*;
use std::sync::Arc;
fn main() {
    tracing_subscriber::fmt().with_env_filter("debug").init();
    let rt = if std::env::var("MT").is_ok() {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    };
    rt.block_on(async {
        let config = Arc::new(config::from_env(&|n| std::env::var(n).ok()).unwrap());
        let m = metrics::Metrics::new("0");
        let shared = Arc::new(session::Shared::new(m.clone(), 1 << 20, false));
        tokio::spawn(session::enforce_ceilings(shared.clone()));
        let ctx = Arc::new(client::HandshakeContext::new(config.clone(), None, auth::MockSecret::random()).unwrap());
        let cc = config.clusters.values().next().unwrap().clone();
        let cluster = cluster::Cluster::new(cc, m.clone());
        let tenants = Arc::new(tenant::Tenants::new(&config));
        let l = tokio::net::TcpListener::bind(config.listen.addresses[0]).await.unwrap();
        loop {
            let (s, _) = l.accept().await.unwrap();
            let (ctx, shared, cluster, tenants) = (ctx.clone(), shared.clone(), cluster.clone(), tenants.clone());
            tokio::spawn(async move {
                let st = net::Stream::Tcp(s);
                st.tune(std::time::Duration::from_secs(60)).unwrap();
                match Box::pin(client::accept(st, &ctx)).await {
                    Ok(client::Accepted::Client(c)) => {
                        let c = *c;
                        let pw = match &c.user.auth {
                            config::UserAuth::Password(p) => Some(p.clone()),
                            _ => None,
                        };
                        let login = server::Login {
                            user: c.user.name.clone(),
                            database: c.database_name.clone(),
                            password: pw,
                            scram_keys: None,
                            parameters: vec![],
                        };
                        let group = cluster.group(&login, &c.database.pool);
                        let a = session::Arrival {
                            stream: c.stream,
                            unread: c.unread,
                            out: c.out,
                            user: c.user.name.as_str().into(),
                            database: c.database_name.as_str().into(),
                            protocol_minor: c.minor,
                            settings: c.settings.into_iter().map(|(k, v)| (k.to_lowercase(), v)).collect(),
                            tenant: tenants.identify("a", "b", None),
                            mode: c.database.pool.mode,
                            consistency: config::Consistency::Session,
                        };
                        let f = session::Session::serve(shared, group, a);
                        tracing::debug!(size = std::mem::size_of_val(&f), "session future");
                        if let Err(e) = f.await {
                            tracing::info!(%e, "ended");
                        }
                    }
                    Ok(client::Accepted::Cancel { pid, key }) => shared.registry.cancel(pid, &key).await,
                    Err(e) => tracing::info!(%e, "handshake"),
                }
            });
        }
    });
}
