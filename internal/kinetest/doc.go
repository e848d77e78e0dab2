// Package kinetest runs kine, etcd's protocol on an SQL database, and private PostgreSQL servers for it, in tests: on free ports
// of the loopback address, in directories of their own, as processes that can be killed. Nothing but the processes that it has started is
// ended. kine is built once, into the project's .cache, from the module in the directory kine, which pins it and all that it needs; none of
// that is in this project's own go.mod. With an empty build cache that takes a minute or two.
package kinetest
