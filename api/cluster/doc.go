// Package cluster is what a node asks of a controller over HTTPS: to join the cloud, with a token and before it has a certificate;
// and afterwards, by its certificate, a new certificate and the contents of images, in both directions. Everything else goes over the store and the bus.
//
// On the controller, [NewHandler] is served with [TLS] of a certificate from its [ca.CA]. On a node, [Join] makes a key, proves the
// token and returns [Credentials], which are kept in a file; a [Node] uses them,
// keeps them fresh, and is the node's image.Source and image.Sink.
//
//	POST /v1/join           token, signing request, host → certificate, settings
//	POST /v1/renew          signing request → certificate, settings          by certificate
//	GET  /v1/images/ID/N    content of the image's Nth upload               by certificate
//	PUT  /v1/images/ID/N    content of the image's Nth upload → what it is   by certificate of the host that makes the image
//
// A node trusts the controller whose authority has the fingerprint that its token names: it says nothing to another.
package cluster
