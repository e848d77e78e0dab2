package amqp

import (
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

const (
	orphaned   = 15 * time.Second   // how long a topic's queue stays that a restart of the broker left without consumers
	deadKept   = 10_000             // dead letters
	deadKeptIn = 7 * 24 * time.Hour // how long
)

func (cfg *Config) workExchange() string           { return cfg.Prefix + ".work" }
func (cfg *Config) fanExchange() string            { return cfg.Prefix + ".fan" }
func (cfg *Config) replyExchange() string          { return cfg.Prefix + ".reply" }
func (cfg *Config) deadName() string               { return cfg.Prefix + ".dead" }
func (cfg *Config) topicQueue(topic string) string { return cfg.Prefix + ".topic." + topic }

// bounded are the arguments of a queue that refuses what it can't hold.
func (cfg *Config) bounded() amqp091.Table {
	return amqp091.Table{"x-max-length": int64(cfg.Backlog), "x-overflow": "reject-publish"}
}

// declareShared declares what all buses have in common.
func (cfg *Config) declareShared(ch *amqp091.Channel) error {
	for _, name := range []string{cfg.workExchange(), cfg.fanExchange(), cfg.replyExchange(), cfg.deadName()} {
		if err := ch.ExchangeDeclare(name, amqp091.ExchangeDirect, true, false, false, false, nil); err != nil {
			return translate("declaring the exchange "+name, err)
		}
	}
	if _, err := ch.QueueDeclare(cfg.deadName(), true, false, false, false, amqp091.Table{
		"x-max-length": int64(deadKept), "x-overflow": "drop-head", "x-message-ttl": deadKeptIn.Milliseconds()}); err != nil {
		return translate("declaring the queue "+cfg.deadName(), err)
	}
	return translate("binding the queue "+cfg.deadName(), ch.QueueBind(cfg.deadName(), "", cfg.deadName(), false, nil))
}

// declareTopic declares the queue of a topic.
func (cfg *Config) declareTopic(ch *amqp091.Channel, topic string) error {
	args := cfg.bounded()
	args["x-expires"] = orphaned.Milliseconds()
	args["x-dead-letter-exchange"] = cfg.deadName()
	args["x-dead-letter-routing-key"] = ""
	name := cfg.topicQueue(topic)
	if _, err := ch.QueueDeclare(name, true, true, false, false, args); err != nil {
		return translate("declaring the queue "+name, err)
	}
	return translate("binding the queue "+name, ch.QueueBind(name, topic, cfg.workExchange(), false, nil))
}

// declareOwn declares an exclusive queue that ends with its connection.
func declareOwn(ch *amqp091.Channel, name, key, exchange string, args amqp091.Table) error {
	if _, err := ch.QueueDeclare(name, false, true, true, false, args); err != nil {
		return translate("declaring the queue "+name, err)
	}
	return translate("binding the queue "+name, ch.QueueBind(name, key, exchange, false, nil))
}
