/// Name and build of a service; created with [`service!`](crate::service!).
#[derive(Debug, Clone, Copy)]
pub struct ServiceInfo {
    pub(crate) name: &'static str,
    pub(crate) log_label: &'static str,
    pub(crate) description: &'static str,
    pub(crate) version: &'static str,
    pub(crate) revision: &'static str,
    pub(crate) listen_addr: &'static str,
    pub(crate) admin_prefix: &'static str,
}

impl ServiceInfo {
    /// Creates the description of a service: its `service.name` and command name, the `service` field
    /// of its log lines, and the default of `LISTEN_ADDR`.
    pub const fn new(
        name: &'static str,
        log_label: &'static str,
        listen_addr: &'static str,
    ) -> Self {
        let (description, version, revision) = ("", "0.0.0", "unknown");
        Self { name, log_label, description, version, revision, listen_addr, admin_prefix: "" }
    }

    /// Sets the text that `--help` begins with.
    pub const fn description(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// Sets the path below which `/metrics` and the probes are served, such as `/internal`. The service can
    /// then have routes of these names.
    pub const fn admin_prefix(mut self, prefix: &'static str) -> Self {
        self.admin_prefix = prefix;
        self
    }

    /// Sets the version of the build and the revision of its source.
    pub const fn build(mut self, version: &'static str, revision: &'static str) -> Self {
        self.version = version;
        self.revision = revision;
        self
    }
}
