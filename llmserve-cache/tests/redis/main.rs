//! `RedisStore` against Debian's `redis-server`, started by these tests on ports of their own.
//! Without that program on the path every test says so and passes.

mod cluster;
mod epochs;
mod faults;
mod rig;
mod sharing;
mod tls;
