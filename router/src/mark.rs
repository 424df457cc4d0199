//! What a server is told of how a request came to it, which it cannot see itself. Pure.

use http::HeaderName;
use millrace_contract::routing::{CLUSTER_HEADER, UNMEASURED_HEADER};

const UNMEASURED: HeaderName = HeaderName::from_static(UNMEASURED_HEADER);
const CLUSTER: HeaderName = HeaderName::from_static(CLUSTER_HEADER);

/// Most requests carry none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// It is no evidence, and its predictions compare nothing.
    #[default]
    Unmeasured,
    /// It is evidence like any other.
    Absent,
    /// It is evidence by its key, which is of this cluster, while revisions are compared.
    Cluster(u32),
}

impl Mark {
    /// The header that says so, and its value.
    pub fn header(self) -> Option<(HeaderName, u32)> {
        match self {
            Self::Unmeasured => Some((UNMEASURED, 1)),
            Self::Absent => None,
            Self::Cluster(cluster) => Some((CLUSTER, cluster)),
        }
    }
}
