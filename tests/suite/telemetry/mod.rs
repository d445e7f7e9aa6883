//! What a host tells of itself: metrics, the dashboard over them, traces, and log lines for programs.

mod dashboard;
mod documented;
mod logs;
mod metrics;
mod traces;
