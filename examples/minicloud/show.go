package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// screen is what a person sees.
type screen struct {
	w     io.Writer
	start time.Time
}

func (s *screen) print(format string, args ...any) {
	fmt.Fprintf(s.w, "%6.1fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

// machine is an instance with what its guest has said so far.
type machine struct {
	compute.Instance
	host    string
	address string
	console []byte
	shown   string // what was last printed of it
}

// said tells whether the guest has said a line that begins so, since it last booted.
func (m machine) said(line string) bool {
	life := m.console[max(0, bytes.LastIndex(m.console, []byte("dewpoint: booted"))):]
	return bytes.Contains(life, []byte("\n"+line)) || bytes.HasPrefix(life, []byte(line))
}

// booted tells whether the guest has the address that the record names, by its own word.
func (m machine) hasAddress() bool {
	return m.address != "" && m.said("dewpoint: address "+m.address+"/")
}

func (m machine) reached(other machine) bool {
	return m.said("dewpoint: ping " + other.address + " ok")
}

// follow shows what becomes of the machines until all run, have their addresses and have reached each other, or the time
// is over; then a table, and the end of each console. The function that it returns says who did not reach whom.
func (s *screen) follow(ctx context.Context, o options, c *dewpoint.Services, ids []string) (reached func() error, err error) {
	patience := time.NewTimer(o.wait)
	defer patience.Stop()
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	machines := make([]machine, len(ids))
	var missing []string
	lastWord := time.Now()
	for waiting := true; waiting; {
		for n, id := range ids {
			if err := s.look(ctx, c, id, &machines[n]); err != nil {
				return nil, err
			}
		}
		if missing = unfinished(machines); len(missing) == 0 || broken(machines) {
			break
		}
		if time.Since(lastWord) > 5*time.Second {
			lastWord = time.Now()
			s.print("waiting: %s", strings.Join(missing[:min(3, len(missing))], "; "))
		}
		select {
		case <-look.C:
		case <-patience.C:
			waiting = false
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if len(machines) > 0 {
		s.table(machines)
		s.consoles(machines)
	}
	return func() error {
		if len(missing) == 0 {
			return nil
		}
		return errors.New(strings.Join(missing, "; "))
	}, nil
}

// look brings m up to date and prints what has changed.
func (s *screen) look(ctx context.Context, c *dewpoint.Services, id string, m *machine) error {
	i, err := c.Compute.Get(ctx, id)
	if err != nil {
		return err
	}
	m.Instance = i
	err = c.Store.View(func(v *state.View) error {
		for p := range network.Ports.By(v, "instance", id) {
			m.address = p.Addrs[0].String()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if h, err := c.Hosts.Get(ctx, i.HostID); err == nil {
		m.host = h.Name
	}
	words := i.Status()
	if i.Fault != "" {
		words += ": " + i.Fault
	}
	if i.State == compute.StateActive {
		if console, err := c.Compute.Console(ctx, id, 0); err == nil {
			m.console = console
		}
		if m.hasAddress() {
			words += ", its guest has " + m.address
		}
	}
	if words != m.shown {
		m.shown = words
		s.print("%s: %s", m.Name, words)
	}
	return nil
}

// unfinished says what is still to come.
func unfinished(machines []machine) (missing []string) {
	for _, m := range machines {
		switch {
		case m.State != compute.StateActive:
			missing = append(missing, fmt.Sprintf("%s is %s", m.Name, m.Status()))
			continue
		case !m.hasAddress():
			missing = append(missing, fmt.Sprintf("the guest of %s has no address", m.Name))
			continue
		case !m.said("dewpoint: metadata hostname " + m.Hostname + "."):
			missing = append(missing, fmt.Sprintf("the guest of %s has no metadata", m.Name))
		}
		for _, other := range machines {
			if other.ID != m.ID && !m.reached(other) {
				missing = append(missing, fmt.Sprintf("%s has not reached %s", m.Name, other.Name))
			}
		}
	}
	return missing
}

// broken tells whether waiting is of no use.
func broken(machines []machine) bool {
	for _, m := range machines {
		if m.State == compute.StateError {
			return true
		}
	}
	return false
}

func (s *screen) table(machines []machine) {
	fmt.Fprintln(s.w)
	t := tabwriter.NewWriter(s.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tID\tHOST\tADDRESS\tSTATE\tREACHES")
	for _, m := range machines {
		var reaches []string
		for _, other := range machines {
			if other.ID != m.ID && m.reached(other) {
				reaches = append(reaches, other.Name)
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.ID, m.host, m.address, m.Status(), strings.Join(reaches, " "))
	}
	_ = t.Flush()
}

// tail is how many lines of a console are shown.
const tail = 6

func (s *screen) consoles(machines []machine) {
	for _, m := range machines {
		fmt.Fprintf(s.w, "\nconsole of %s:\n", m.Name)
		lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(m.console), "\r", "")), "\n")
		for _, line := range lines[max(0, len(lines)-tail):] {
			fmt.Fprintf(s.w, "  | %s\n", printable(line))
		}
	}
	fmt.Fprintln(s.w)
}

// printable keeps what a guest writes from working on the terminal.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd || r >= 0x80 && r < 0xa0 {
			return '.'
		}
		return r
	}, line)
}

// audit compares the records with the host, as soon as no operation is open any more. Those that were left half-done have so long to end.
func (s *screen) audit(ctx context.Context, settle time.Duration, cloud *dewpoint.Cloud) error {
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for begun := time.Now(); ; {
		differences, err := cloud.Audit(ctx)
		if err != nil {
			return err
		}
		if len(differences) == 0 {
			s.print("audit: the records and the host agree")
			return nil
		}
		if time.Since(begun) > settle {
			for _, d := range differences {
				s.print("audit: %s", d)
			}
			return fmt.Errorf("after %v, the records and the host differ in %d ways, see above", settle, len(differences))
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
