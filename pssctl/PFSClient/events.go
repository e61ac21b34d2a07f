package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

// count reads the argument that says how many deliveries are wanted.
func (k *client) count(i int) (int, error) {
	n, err := strconv.ParseUint(k.args[i], 10, 31)
	if err != nil || n == 0 {
		return 0, console.Usagef("%q is no number of deliveries", k.args[i])
	}
	return int(n), nil
}

// watch prints what comes of a watch, delivery by delivery.
func (k *client) watch(kind op.EventKind, set, name, count string, each func(op.Event)) error {
	n, err := strconv.ParseUint(count, 10, 31)
	if err != nil || n == 0 {
		return console.Usagef("%q is no number of deliveries", count)
	}
	err = k.do(func(ctx context.Context) error { return k.Watch(ctx, kind, name) })
	k.printf("%s\n", fmt.Sprintf(set, ret(err), errno(err), name))
	if err != nil {
		return err
	}
	total, first, second := 0, 0, 0
	for i := range n {
		k.printf("\n*** (%d) Wait Event ***\n", i+1)
		events, omitted, err := k.Events(k.ctx)
		for _, e := range events {
			each(e)
			total++
			if e.Mode == op.EventUpdated {
				second++
			} else {
				first++
			}
		}
		k.printf("EventGet:Total Count[%d] Cre/Del[%d] Updt[%d] Ret[%d] errno[%d] events=%d omit=%d\n",
			total, first, second, ret(err), errno(err), len(events), omitted)
		if err != nil {
			return err
		}
	}
	return nil
}

func eventdir(k *client) error {
	return k.watch(op.EventDir, "EventDirSet:Ret[%d] errno[%d] dir_name[%s]", k.args[0], k.args[2], func(e op.Event) {
		k.printf("PFSEventDir: Mode=%d [%s] [%s]\n", e.Mode, e.Entry, k.args[0])
	})
}

func eventqueue(k *client) error {
	return k.watch(op.EventQueue, "EventQueueSet:Ret[%d] errno[%d] queue_name[%s]", k.args[0], k.args[1], func(e op.Event) {
		k.printf("PFSEventQueue: Mode=%d [%s]\n", e.Mode, e.Name)
	})
}

// eventlock takes a lock, and gives it back whenever somebody else waits for it.
func eventlock(mode pss.LockMode) func(*client) error {
	return func(k *client) error {
		n, err := k.count(1)
		if err != nil {
			return err
		}
		name := k.args[0]
		err = k.do(func(ctx context.Context) error { return k.Watch(ctx, op.EventLock, name) })
		k.printf("EventLockSet:Ret[%d] errno[%d] lock_name[%s]\n", ret(err), errno(err), name)
		if err != nil {
			return err
		}
		for i := range n {
			l, err := k.Lock(k.ctx, name, mode)
			if err != nil {
				return err
			}
			k.printf("\n*** (%d) Wait Event ***\n", i+1)
			if err := k.recalled(name); err != nil {
				return err
			}
			if err := k.do(l.Unlock); err != nil {
				return err
			}
		}
		return nil
	}
}

// recalled waits until somebody wants the lock that we hold.
func (k *client) recalled(name string) error {
	for {
		events, omitted, err := k.Events(k.ctx)
		if err != nil {
			return err
		}
		recall := omitted > 0 // it may have been among those
		for _, e := range events {
			k.printf("PFSEventLock: Mode=%d [%s]\n", e.Mode, e.Name)
			recall = recall || e.Mode == op.EventRecall
		}
		if recall {
			return nil
		}
	}
}

func post(k *client) error {
	err := k.do(k.Sync)
	k.printf("SessionOpen:Ret[%d]\n", ret(err))
	if err != nil {
		return err
	}
	err = k.do(func(ctx context.Context) error { _, err := k.Post(ctx, k.args[0], []byte(k.args[1])); return err })
	k.printf("Post:Ret[%d]\nSessionPost:Ret[%d]\n", ret(err), ret(err))
	return err
}

// wait prints a message and then takes it off its queue: who reads what is printed gets it at least once.
func wait(k *client) error {
	err := k.do(k.Sync)
	k.printf("SessionOpen:Ret[%d]\n", ret(err))
	if err != nil {
		return err
	}
	g, err := k.Take(k.ctx, k.args[0])
	if err != nil {
		k.printf("PFSWait:Ret[-1] []\n")
		return err
	}
	k.printf("PFSWait:Ret[0] [%s]\n", g.Data)
	return k.do(g.Ack)
}
