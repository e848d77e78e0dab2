package libvirtd

import (
	"context"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// forgetHalfStarted makes libvirtd, which must not run, forget the guests that it was just starting when it was killed. It
// notes a guest before it runs QEMU, and QEMU's process id in the note afterwards. Of a note without one, libvirt 9.0 makes a
// guest that is paused and locked for good. The guest has not run an instruction yet (QEMU starts with -S), so nothing is lost.
func (d *Daemon) forgetHalfStarted(ctx context.Context) error {
	notes, err := filepath.Glob(filepath.Join(d.cfg.Dir, "run", "qemu", "*.xml"))
	if err != nil {
		return err
	}
	for _, note := range notes {
		text, err := os.Open(note)
		if err != nil {
			return err
		}
		half := halfStarted(text)
		_ = text.Close()
		if !half {
			continue
		}
		pidFile := strings.TrimSuffix(note, ".xml") + ".pid"
		name := strings.TrimSuffix(filepath.Base(note), ".xml")
		p, err := open(pidFile, "guest="+name)
		if err == nil {
			err = p.end(ctx, unix.SIGKILL)
			p.close()
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		d.cfg.Logger.Warn("libvirtd: was killed while it started a guest, which is off now", "guest", name)
		_ = os.Remove(pidFile)
		if err := os.Remove(note); err != nil {
			return err
		}
	}
	return nil
}

// halfStarted tells whether a note of libvirtd's is of a guest that it was starting and that has no process yet. What can't be
// read is left to libvirtd.
func halfStarted(note io.Reader) bool {
	words := xml.NewDecoder(note)
	for {
		token, err := words.Token()
		if err != nil {
			return false
		}
		element, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		if element.Name.Local != "domstatus" {
			return false
		}
		said := map[string]string{}
		for _, a := range element.Attr {
			said[a.Name.Local] = a.Value
		}
		return said["reason"] == "starting up" && said["pid"] == "0"
	}
}
