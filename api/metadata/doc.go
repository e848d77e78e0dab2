// Package metadata is what guests ask at http://169.254.169.254: the metadata service of EC2 in all its versions of 2011, with the
// session tokens of today (IMDSv2), and that of OpenStack.
//
// It is a face: it has no rules and no data of its own. Who asks is decided by Config.Resolve from the connection, as the node's
// kernel saw it; no header of a request says anything about that. What is told comes from a [Source], which for a cloud is
// its [Records].
//
// A [Server] is told about connections by whoever listens, such as network/linklocal on a node:
//
//	guest ──► linklocal: a listener per bridge ──► Server.Serve ──► Resolve: which port? ──► Source: which machine?
package metadata
