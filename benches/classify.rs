//! What classification costs: a typical web statement that was judged before, one that differs from it in constants
//! alone, one that is new each time, and one that is decided without the parser.

use std::cell::Cell;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgweir::sql::{Catalog, CatalogRows, Classifier, fingerprint};

/// About 150 bytes, as an ORM writes it.
const WEB: &str = "SELECT \"users\".\"id\", \"users\".\"email\", \"users\".\"name\" FROM \"users\" \
    WHERE (\"users\".\"active\" AND \"users\".\"org_id\" = $1) ORDER BY \"users\".\"id\" LIMIT 21";

const WRITE: &str = "UPDATE \"orders\" SET \"status\" = $1, \"updated_at\" = now() WHERE \"orders\".\"id\" = $2";

fn classification(criterion: &mut Criterion) {
    let catalog = Catalog::build(1, CatalogRows::default());
    let classifier = Classifier::new(1 << 20);
    let mut group = criterion.benchmark_group("classify");
    group.throughput(Throughput::Bytes(WEB.len() as u64));
    group.bench_function("hit", |bench| bench.iter(|| classifier.classify(black_box(WEB.as_bytes()), &catalog, None)));
    group.bench_function("hit with other constants", |bench| {
        let count = Cell::new(0u64);
        let other = || {
            count.set(count.get() + 1);
            WEB.replace("LIMIT 21", &format!("LIMIT {}", count.get()))
        };
        bench.iter_batched(
            other,
            |sql| classifier.classify(sql.as_bytes(), &catalog, None),
            criterion::BatchSize::SmallInput,
        );
    });
    group.bench_function("miss", |bench| {
        let count = Cell::new(0u64);
        let fresh = || {
            count.set(count.get() + 1);
            WEB.replace("org_id", &format!("c{}", count.get()))
        };
        bench.iter_batched(
            fresh,
            |sql| classifier.classify(sql.as_bytes(), &catalog, None),
            criterion::BatchSize::SmallInput,
        );
    });
    group.bench_function("write", |bench| {
        bench.iter(|| classifier.classify(black_box(WRITE.as_bytes()), &catalog, None))
    });
    group.bench_function("fingerprint", |bench| bench.iter(|| fingerprint(black_box(WEB.as_bytes()))));
    group.finish();
}

criterion_group!(benches, classification);
criterion_main!(benches);
