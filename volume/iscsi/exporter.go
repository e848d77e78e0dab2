package iscsi

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/volume"
)

// ExporterConfig is what an [Exporter] is made of.
type ExporterConfig struct {
	Target Target // required: a [Server] that is served
	Portal string // required: "address:port" at which initiators on all hosts reach the target
	Prefix string // of the targets' names, which end in the volume's id; "": "iqn.2026-01.cloud.dewpoint:volume-"
}

// Exporter is a volume.Exporter over a [Target]: each volume is LUN 0 of a target of its own.
type Exporter struct {
	cfg ExporterConfig

	mu      sync.Mutex
	volumes map[string]*exportedVolume
}

// exportedVolume is an export with the files that its sessions, and those of the exports that it replaced, may use still.
type exportedVolume struct {
	mu     sync.Mutex
	export volume.Export // zero: none
	store  *File
	older  []*File
}

var _ volume.Exporter = (*Exporter)(nil)

// NewExporter checks the configuration. It starts nothing.
func NewExporter(cfg ExporterConfig) (*Exporter, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = "iqn.2026-01.cloud.dewpoint:volume-"
	}
	switch {
	case cfg.Target == nil:
		return nil, invalid("ExporterConfig.Target is required")
	case cfg.Portal == "":
		return nil, invalid("ExporterConfig.Portal is required")
	}
	if err := validName("ExporterConfig.Prefix", cfg.Prefix); err != nil {
		return nil, err
	}
	return &Exporter{cfg: cfg, volumes: map[string]*exportedVolume{}}, nil
}

func (x *Exporter) volume(id string) *exportedVolume {
	x.mu.Lock()
	defer x.mu.Unlock()
	v := x.volumes[id]
	if v == nil {
		v = &exportedVolume{}
		x.volumes[id] = v
	}
	return v
}

// Export implements volume.Exporter.
func (x *Exporter) Export(ctx context.Context, e volume.Export) (volume.Target, error) {
	v := x.volume(e.VolumeID)
	v.mu.Lock()
	defer v.mu.Unlock()
	store := v.store
	before := v.export
	before.Initiator, before.Also = e.Initiator, e.Also
	if store == nil || before != e {
		var err error
		if store, err = OpenFile(e.Path); err != nil {
			return volume.Target{}, fmt.Errorf("volume %s: %w: %w", e.VolumeID, err, errdefs.ErrFailedPrecondition)
		}
	}
	iqn := x.cfg.Prefix + e.VolumeID
	initiators := []Initiator{{IQN: e.Initiator, User: e.User, Secret: e.Secret}}
	if e.Also != "" {
		initiators = append(initiators, Initiator{IQN: e.Also, User: e.User, Secret: e.Secret})
	}
	err := x.cfg.Target.Export(ctx, Export{IQN: iqn, Volume: e.VolumeID, Store: store, Epoch: e.Epoch, Initiators: initiators})
	refused := errdefs.IsFailedPrecondition(err) || errdefs.IsAlreadyExists(err) || errdefs.IsInvalidArgument(err)
	if store != v.store {
		if refused {
			return volume.Target{}, errors.Join(err, store.Close())
		}
		if v.store != nil {
			v.older = append(v.older, v.store)
		}
		v.store = store
	}
	if !refused {
		v.export = e
	}
	if err != nil { // sessions are still being ended
		return volume.Target{}, err
	}
	return volume.Target{Portal: x.cfg.Portal, IQN: iqn}, v.closeOlder()
}

func (v *exportedVolume) closeOlder() (err error) {
	for _, f := range v.older {
		err = errors.Join(err, f.Close())
	}
	v.older = nil
	return err
}

// Unexport implements volume.Exporter.
func (x *Exporter) Unexport(ctx context.Context, volumeID string, epoch uint64) error {
	v := x.volume(volumeID)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := x.cfg.Target.Unexport(ctx, x.cfg.Prefix+volumeID, epoch); err != nil {
		return err
	}
	if v.store != nil {
		v.older = append(v.older, v.store)
	}
	v.store, v.export = nil, volume.Export{}
	return v.closeOlder()
}

// Resized implements volume.Exporter.
func (x *Exporter) Resized(_ context.Context, volumeID string) error {
	err := x.cfg.Target.Resized(x.cfg.Prefix + volumeID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Hold implements volume.Exporter.
func (x *Exporter) Hold(ctx context.Context, volumeID string) (release func(), err error) {
	release, err = x.cfg.Target.Hold(ctx, x.cfg.Prefix+volumeID)
	if errdefs.IsNotFound(err) {
		return func() {}, nil
	}
	return release, err
}

// Exports implements volume.Exporter.
func (x *Exporter) Exports(context.Context) ([]volume.Exported, error) {
	x.mu.Lock()
	all := make(map[string]*exportedVolume, len(x.volumes))
	for id, v := range x.volumes {
		all[id] = v
	}
	x.mu.Unlock()
	var found []volume.Exported
	for id, v := range all {
		v.mu.Lock()
		if v.store != nil {
			found = append(found, volume.Exported{VolumeID: id, Epoch: v.export.Epoch})
		}
		v.mu.Unlock()
	}
	return found, nil
}

// Close closes the files of all exports. The target must have ended.
func (x *Exporter) Close() (err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, v := range x.volumes {
		v.mu.Lock()
		if v.store != nil {
			v.older = append(v.older, v.store)
		}
		v.store, v.export = nil, volume.Export{}
		err = errors.Join(err, v.closeOlder())
		v.mu.Unlock()
	}
	return err
}
