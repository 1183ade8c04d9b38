//! What a node says about every member: a pure function of the membership, the leader it knows and what it observes.

use std::collections::BTreeMap;
use std::fmt;

use crate::types::{Member, Membership, NodeId};

/// What a member is doing, as far as the node that is asked can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeStatus {
    /// It leads.
    Leader,
    /// It votes and follows.
    Follower,
    /// It receives the log and does not vote.
    Learner,
    /// It votes and is asking for votes.
    Candidate,
    /// Attempts to talk to it fail.
    Unreachable,
}

impl NodeStatus {
    /// The status in lower case, as the REST API shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
            Self::Candidate => "candidate",
            Self::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the local node has seen of a member of late. Of itself a node observes that it is reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Whether the last attempt to talk to it succeeded.
    pub reachable: bool,
    /// Whether it is known to be asking for votes.
    pub candidate: bool,
}

/// One member and what it is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its identity.
    pub id: NodeId,
    /// Its record in the membership.
    pub member: Member,
    /// What it is doing.
    pub status: NodeStatus,
    /// Whether it votes in any configuration that is in force.
    pub voter: bool,
}

/// The status of every member, in the order of their ids. The first row that fits decides:
///
/// | member | status |
/// |---|---|
/// | observed, and not reachable | unreachable: what is seen now outweighs who led before |
/// | is `leader` | leader, even one that is no voter (it leads until its removal is committed) |
/// | votes in no configuration | learner |
/// | observed as a candidate | candidate |
/// | anything else, a voter that was never observed included | follower |
///
/// A `leader` that is no member is in no row: the list is about members.
pub fn classify(
    membership: &Membership,
    leader: Option<NodeId>,
    observed: &BTreeMap<NodeId, Observation>,
) -> Vec<MemberStatus> {
    let status = |id: NodeId, voter: bool| match observed.get(&id) {
        Some(Observation { reachable: false, .. }) => NodeStatus::Unreachable,
        _ if leader == Some(id) => NodeStatus::Leader,
        _ if !voter => NodeStatus::Learner,
        Some(Observation { candidate: true, .. }) => NodeStatus::Candidate,
        _ => NodeStatus::Follower,
    };
    let member_status = |(id, member): (&NodeId, &Member)| {
        let voter = membership.is_voter(*id);
        MemberStatus { id: *id, member: member.clone(), status: status(*id, voter), voter }
    };
    membership.members.iter().map(member_status).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use NodeStatus::{Candidate, Follower, Leader, Learner, Unreachable};

    use super::*;

    fn observation(reachable: bool, candidate: bool) -> Option<Observation> {
        Some(Observation { reachable, candidate })
    }

    /// Every combination of (leader?, voter?, observation), written out.
    #[test]
    fn every_combination() {
        let table = [
            // leads, votes, observed                   status
            (false, false, None, Learner),
            (false, false, observation(false, false), Unreachable),
            (false, false, observation(false, true), Unreachable),
            (false, false, observation(true, false), Learner),
            (false, false, observation(true, true), Learner),
            (false, true, None, Follower),
            (false, true, observation(false, false), Unreachable),
            (false, true, observation(false, true), Unreachable),
            (false, true, observation(true, false), Follower),
            (false, true, observation(true, true), Candidate),
            (true, false, None, Leader),
            (true, false, observation(false, false), Unreachable),
            (true, false, observation(false, true), Unreachable),
            (true, false, observation(true, false), Leader),
            (true, false, observation(true, true), Leader),
            (true, true, None, Leader),
            (true, true, observation(false, false), Unreachable),
            (true, true, observation(false, true), Unreachable),
            (true, true, observation(true, false), Leader),
            (true, true, observation(true, true), Leader),
        ];
        let (id, other) = (NodeId(7), NodeId(9));
        let member = Member { name: "n7".into(), ..Member::default() };
        for (leads, voter, observed, status) in table {
            for elsewhere in [None, Some(other)] {
                // A joint configuration counts whichever half the member votes in.
                let voters = BTreeSet::from_iter(voter.then_some(id));
                let configs = vec![BTreeSet::from([other]), voters];
                let membership = Membership { configs, members: BTreeMap::from([(id, member.clone())]) };
                let leader = if leads { Some(id) } else { elsewhere };
                let observed = observed.map(|o| (id, o)).into_iter().collect();
                let expected = MemberStatus { id, member: member.clone(), status, voter };
                assert_eq!(classify(&membership, leader, &observed), [expected], "{leads} {voter} {observed:?}");
            }
        }
    }

    #[test]
    fn members_come_in_the_order_of_their_ids_and_nobody_else_does() {
        let ids = [3, 1, 2].map(NodeId);
        let members = ids.map(|id| (id, Member::default())).into_iter().collect();
        let membership = Membership { configs: vec![BTreeSet::from(ids)], members };
        let observed = BTreeMap::from([(NodeId(8), Observation { reachable: true, candidate: false })]);
        let statuses = classify(&membership, Some(NodeId(9)), &observed);
        let got: Vec<_> = statuses.iter().map(|s| (s.id.0, s.status.as_str())).collect();
        assert_eq!(got, [(1, "follower"), (2, "follower"), (3, "follower")]);
    }
}
