// Package pdu reads and writes the protocol data units of iSCSI, RFC 7143 section 11: headers, additional headers, digests and
// the text of negotiations.
//
// A [Header] is the 48 bytes as they are on the wire, with methods for the fields. A [Reader] takes units from a stream
// through one buffer of its own, so that many small ones cost one read, and large data is read where it is wanted.
package pdu
