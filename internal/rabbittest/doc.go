// Package rabbittest runs private RabbitMQ brokers for tests: in a directory that the test gives, on free ports of the
// loopback address, with an Erlang port mapper of its own, so that any number of them run beside each other and beside an
// installed one. Nothing of the machine's own configuration is read, and nothing but the processes that [Start] started is
// ended.
package rabbittest
