//! The way to RabbitMQ against a real server, which `BROLLY_TEST_RABBITMQ_URL` names: an address with
//! credentials and a virtual host that tests may leave exchanges in. Without it the tests are skipped,
//! and say so.

mod bench;
mod faults;
mod flow;
mod objects;
mod proxy;
