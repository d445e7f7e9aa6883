//! Other programs on the same server: what they publish arrives whole, what Brolly publishes is
//! plain AMQP. With lapin as any other client would.
