// Package netns runs functions in network namespaces of Linux. The namespace is a property of a thread, not of a goroutine:
// each function gets a thread of its own, which ends with it, so that no other goroutine ever finds itself in the wrong
// namespace.
package netns
