package compute

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// RunRequest asks for instances.
type RunRequest struct {
	Name           string       // required: up to 255 characters; with several instances, "-1", "-2", … is added
	Image          string       // an image's id; required, unless there is a BootVolume
	Flavor         string       // required: a flavor's id or name
	Networks       []string     // ids or names, a card on each; none: the project's own ([network.Range]), or the one that it sees
	FixedIPs       []netip.Addr `json:",omitempty"` // what the cards on Networks are to have, in their order; a zero one, or one less: any that is free. For one instance
	SecurityGroups []string     // ids or names of the project's, for all cards; none: the project's default group
	KeyName        string       // a key pair of the caller; "": none
	UserData       []byte       // at most 64 KiB
	Zone           string       // availability zone; "": any
	Host           string       // a host's id or name, for administrators; "": any

	MinCount int // fewer is refused; 0: MaxCount
	MaxCount int // as many as quota and room allow, up to this; 0: 1, or MinCount if that is more

	// Token makes repeating the request safe: the same token and request return what the first one made, as it is now, for
	// as long as any of it exists. A changed request under a used token is FailedPrecondition. Tokens belong to the project.
	// At most 64 printable ASCII characters; "": none.
	Token string

	// BootVolume is what one instance boots from instead of a disk of its own on its host. nil: a disk, made of Image.
	BootVolume *BootVolume `json:",omitempty"`

	// Limits are how much each card may get and send, for administrators. The zero value: those of the flavor.
	Limits network.Limits `json:",omitzero"`

	// ConfigDrive is [DriveOpenStack], [DriveNoCloud] or [DriveNone]. "": OpenStack's if one of the networks answers no DHCP, or the
	// image's property img_config_drive is "mandatory"; else none.
	ConfigDrive string
}

// Limits of a request.
const (
	MaxUserData = 64 << 10
	MaxPerRun   = 1000
	MaxNICs     = 8
)

// Run makes instances: it checks the request, the quota and that there is room and addresses, records the instances on
// their hosts, and returns their records at once, in the state "building"; [Service.Wait] waits for more. Either at
// least MinCount instances are recorded, or none and the error says why: InvalidArgument names the field,
// ResourceExhausted is a quota, a network without free addresses ([network.ErrNoMoreAddresses]) or
// a [scheduler.Unplaced], NotFound an unknown reference, AlreadyExists one of the FixedIPs that is taken.
func (s *Service) Run(ctx context.Context, req RunRequest) ([]Instance, error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "compute:run", "")
	if err != nil {
		return nil, err
	}
	if req.Host != "" {
		if _, err := s.cfg.Policy.Authorize(ctx, "compute:run:host", ""); err != nil {
			return nil, err
		}
	}
	if req.Limits != (network.Limits{}) {
		if _, err := s.cfg.Policy.Authorize(ctx, "compute:limits:set", ""); err != nil {
			return nil, err
		}
	}
	if err := req.check(); err != nil {
		return nil, err
	}
	for _, action := range req.BootVolume.actions() {
		if _, err := s.cfg.Policy.Authorize(ctx, action, ""); err != nil {
			return nil, err
		}
	}
	var made []Instance
	var fresh bool
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) (err error) {
		made, fresh, err = s.record(tx, caller, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	if fresh {
		s.ring(ctx, made...)
	}
	return made, nil
}

// check fills in defaults and returns what is wrong with the request by itself.
func (req *RunRequest) check() error {
	bad := func(field, format string, args ...any) error {
		return fmt.Errorf("compute: %s %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	if req.MaxCount == 0 {
		req.MaxCount = max(1, req.MinCount)
	}
	if req.MinCount == 0 {
		req.MinCount = req.MaxCount
	}
	switch {
	case !validName(req.Name):
		return bad("Name", "%.40q must have 1 to 255 characters, none of them a control character", req.Name)
	case req.Image == "" && req.BootVolume == nil:
		return bad("Image", "is required")
	case req.BootVolume != nil && req.Image != "":
		return bad("Image", "is given, must be empty with BootVolume, which may have one")
	case req.BootVolume != nil && req.MaxCount != 1:
		return bad("MaxCount", "is %d, must be 1 with BootVolume", req.MaxCount)
	case req.Flavor == "":
		return bad("Flavor", "is required")
	case req.MinCount < 1 || req.MaxCount < req.MinCount || req.MaxCount > MaxPerRun:
		return bad("MinCount and MaxCount", "are %d and %d, must be 1 ≤ MinCount ≤ MaxCount ≤ %d", req.MinCount, req.MaxCount, MaxPerRun)
	case len(req.UserData) > MaxUserData:
		return bad("UserData", "has %d bytes, at most %d are possible", len(req.UserData), MaxUserData)
	case len(req.SecurityGroups) > network.MaxGroupsPerPort:
		return bad("SecurityGroups", "names %d groups, at most %d are possible", len(req.SecurityGroups), network.MaxGroupsPerPort)
	case len(req.Networks) > MaxNICs:
		return bad("Networks", "names %d networks, at most %d are possible", len(req.Networks), MaxNICs)
	case len(req.FixedIPs) > len(req.Networks):
		return bad("FixedIPs", "has %d addresses, at most %d are possible: one for each of Networks", len(req.FixedIPs), len(req.Networks))
	case req.MaxCount > 1 && slices.ContainsFunc(req.FixedIPs, netip.Addr.IsValid):
		return bad("FixedIPs", "are %v and MaxCount is %d, must be 1: an address is one instance's", req.FixedIPs, req.MaxCount)
	case !validToken.MatchString(req.Token):
		return bad("Token", "must have at most 64 printable ASCII characters")
	}
	if err := req.Limits.Validate(); err != nil {
		return fmt.Errorf("compute: %w", err)
	}
	if err := req.BootVolume.check(); err != nil {
		return err
	}
	return checkDrive(req.ConfigDrive)
}

var validToken = regexp.MustCompile(`^[!-~]{0,64}$`)

func validName(name string) bool {
	return plain(name) && utf8.RuneCountInString(name) <= 255 && strings.TrimSpace(name) != ""
}

// record does the work of Run in one transaction.
func (s *Service) record(tx *state.Tx, caller auth.Caller, req RunRequest) (made []Instance, fresh bool, err error) {
	hash := req.hash()
	if made, err := repeated(tx, caller, req, hash); len(made) > 0 || err != nil {
		return made, false, err
	}
	proto := Instance{ProjectID: caller.ProjectID, UserID: caller.UserID, KeyName: req.KeyName, UserData: req.UserData,
		State: StateBuilding, Task: TaskSpawning, Epoch: 1, Generation: 1, Token: req.Token, TokenHash: hash,
		ReservationID: "r-" + uuid.NewString()[:8], Created: time.Now().UTC()}
	if proto.Flavor, err = findFlavor(tx, req.Flavor); err != nil {
		return nil, false, err
	}
	if req.BootVolume == nil {
		err = proto.boot(tx, caller, req.Image)
	} else {
		err = proto.bootOf(tx, caller, *req.BootVolume)
	}
	if err != nil {
		return nil, false, err
	}
	if req.KeyName != "" {
		key, err := auth.FindKeyPair(tx, caller.UserID, req.KeyName)
		if err != nil {
			return nil, false, err
		}
		proto.PublicKey = key.PublicKey
	}
	nets, err := s.networks(tx, caller, req.Networks)
	if err != nil {
		return nil, false, err
	}
	proto.ConfigDrive = chooseDrive(tx, req, proto.ImageID, nets)
	n, err := s.room(tx, caller, req, proto.Flavor)
	if err != nil {
		return nil, false, err
	}
	hosts, err := s.place(tx, scheduler.Request{Resources: proto.Flavor.Resources(), Zone: req.Zone, Host: req.Host,
		ProjectID: caller.ProjectID}, req.MinCount, n)
	if err != nil {
		return nil, false, err
	}
	for index, host := range hosts {
		i := proto
		i.ID, i.LaunchIndex, i.HostID, i.Name = uuid.NewString(), index, host, req.Name
		if req.MaxCount > 1 {
			i.Name = fmt.Sprintf("%s-%d", req.Name, index+1)
		}
		i.Hostname = hostname(i.Name, i.ID)
		if h, err := scheduler.Hosts.Get(tx, host); err == nil {
			i.Zone = h.Zone
		}
		for card, net := range nets {
			ask := network.PortRequest{NetworkID: net, ProjectID: i.ProjectID, InstanceID: i.ID, HostID: host, Hostname: i.Hostname,
				SecurityGroups: req.SecurityGroups, Limits: cmp.Or(req.Limits, i.Flavor.Limits)}
			if card < len(req.FixedIPs) {
				ask.Addr = req.FixedIPs[card]
			}
			p, err := s.cfg.Addresses.Allocate(tx, ask)
			if errors.Is(err, network.ErrNoMoreAddresses) && index >= req.MinCount {
				for _, port := range i.Ports {
					if err := s.cfg.Addresses.Release(tx, port); err != nil {
						return nil, false, err
					}
				}
				return made, true, nil
			}
			if err != nil && ask.Addr.IsValid() {
				err = fmt.Errorf("compute: FixedIPs[%d]: %w", card, err)
			}
			if err != nil {
				return nil, false, err
			}
			i.Ports = append(i.Ports, p.ID)
		}
		if req.BootVolume != nil {
			if err := i.claimBoot(tx, s.cfg.Members, caller, *req.BootVolume); err != nil {
				return nil, false, err
			}
		}
		if err := Instances.Insert(tx, i); err != nil {
			return nil, false, err
		}
		if _, err := operation.Begin(tx, i.operation(kindLaunch, launchDeadline)); err != nil {
			return nil, false, err
		}
		made = append(made, i)
	}
	return made, true, nil
}

func (i Instance) operation(kind string, deadline time.Duration) operation.Intent {
	return operation.Intent{Kind: kind, Owner: ownerOf(i.HostID), Object: i.object(), Data: work{i.ID, i.Epoch}, Deadline: deadline}
}

// hash tells requests apart that came under one token.
func (req RunRequest) hash() string {
	b, _ := json.Marshal(req) // a struct of strings and numbers can always be encoded
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// repeated returns what an earlier request under the same token made.
func repeated(tx *state.Tx, caller auth.Caller, req RunRequest, hash string) (made []Instance, err error) {
	if req.Token == "" {
		return nil, nil
	}
	for i := range Instances.By(tx, "token", tokenKey(caller.ProjectID, req.Token)) {
		if i.TokenHash != hash {
			return nil, fmt.Errorf("compute: Token %q was used for another request: %w", req.Token, errdefs.ErrFailedPrecondition)
		}
		made = append(made, i)
	}
	slices.SortFunc(made, func(a, b Instance) int { return a.LaunchIndex - b.LaunchIndex })
	return made, nil
}

// defaultCmdline is what a kernel boots with whose image says nothing.
const defaultCmdline = "root=/dev/vda console=ttyS0"

// boot fills in what the instances boot from, if the caller may boot it with the flavor. The kernel's command line is the
// image's property os_command_line, as in OpenStack.
func (i *Instance) boot(r state.Reader, caller auth.Caller, imageID string) error {
	img, err := image.Visible(r, caller, imageID)
	if err != nil {
		return err
	}
	if err := img.Bootable(i.Flavor.MemoryMiB, i.Flavor.DiskGiB); err != nil {
		return err
	}
	i.ImageID, i.KernelID, i.RamdiskID = img.ID, img.KernelID, img.RamdiskID
	if img.KernelID == "" {
		return nil
	}
	i.Cmdline = defaultCmdline
	if line, ok := img.Properties["os_command_line"]; ok {
		i.Cmdline = line
	}
	if !plain(i.Cmdline) {
		return fmt.Errorf("compute: image %s: its property os_command_line has control characters: %w", img.ID, errdefs.ErrInvalidArgument)
	}
	for _, id := range []string{img.KernelID, img.RamdiskID} {
		if id == "" {
			continue
		}
		part, err := image.Images.Get(r, id)
		if err != nil {
			return fmt.Errorf("compute: image %s boots with image %s, which is gone: %w", img.ID, id, errdefs.ErrFailedPrecondition)
		}
		if part.Status != image.Active {
			return fmt.Errorf("compute: image %s boots with image %s, which is %s, must be active: %w", img.ID, id, part.Status,
				errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// sees tells whether a caller's project may have cards on a network.
func sees(caller auth.Caller, n network.Network) bool {
	return n.ProjectID == "" || n.ProjectID == caller.ProjectID
}

// findNetwork returns a network that the caller sees, by id or name.
func findNetwork(r state.Reader, caller auth.Caller, idOrName string) (network.Network, error) {
	n, err := network.Networks.Get(r, idOrName)
	if errdefs.IsNotFound(err) {
		n, err = network.Networks.One(r, "name", idOrName)
	}
	if err != nil || !sees(caller, n) {
		return network.Network{}, fmt.Errorf("network %q: %w", idOrName, errdefs.ErrNotFound)
	}
	return n, nil
}

// networks returns the ids of the networks asked for, or of the one there is, or is allotted to the project now.
func (s *Service) networks(tx *state.Tx, caller auth.Caller, asked []string) (ids []string, err error) {
	for _, name := range asked {
		n, err := findNetwork(tx, caller, name)
		if err != nil {
			return nil, err
		}
		ids = append(ids, n.ID)
	}
	if len(asked) > 0 {
		return ids, nil
	}
	if n, found, err := s.cfg.Addresses.ProjectNetwork(tx, caller.ProjectID); found || err != nil {
		return []string{n.ID}, err
	}
	for n := range network.Networks.All(tx) {
		if sees(caller, n) {
			ids = append(ids, n.ID)
		}
	}
	switch len(ids) {
	case 0:
		return nil, fmt.Errorf("compute: the project sees no network: make one first: %w", errdefs.ErrFailedPrecondition)
	case 1:
		return ids, nil
	}
	return nil, fmt.Errorf("compute: Networks must name one: the project sees %d networks: %w", len(ids), errdefs.ErrInvalidArgument)
}

// room returns how many instances the quota allows, up to MaxCount, or refuses.
func (s *Service) room(tx *state.Tx, caller auth.Caller, req RunRequest, f Flavor) (int, error) {
	used := ProjectUse.Get(tx, caller.ProjectID)
	check := func(n int) error {
		return auth.CheckQuota(tx, caller.ProjectID,
			auth.Amounts{Instances: n, Cores: n * f.VCPUs, MemoryMiB: n * f.MemoryMiB},
			auth.Amounts{Instances: used.Instances, Cores: used.Cores, MemoryMiB: used.MemoryMiB})
	}
	err := check(req.MaxCount)
	var over *auth.QuotaError
	if !errors.As(err, &over) || req.MinCount == req.MaxCount {
		return req.MaxCount, err
	}
	n := req.MaxCount
	for _, o := range over.Over {
		each := o.Asked / req.MaxCount
		n = min(n, max(0, o.Limit-o.InUse)/each)
	}
	if n < req.MinCount {
		return 0, check(req.MinCount)
	}
	return n, nil
}

// place finds hosts for as many of n instances as there is room for, at least least.
func (s *Service) place(tx *state.Tx, req scheduler.Request, least, n int) ([]string, error) {
	hosts, err := s.cfg.Scheduler.Place(tx, req, n)
	var refusal *scheduler.Unplaced
	if errors.As(err, &refusal) && refusal.Placed >= least && refusal.Placed < n {
		return s.cfg.Scheduler.Place(tx, req, refusal.Placed)
	}
	return hosts, err
}

var notInHostname = regexp.MustCompile(`[^a-z0-9-]+`)

// hostname makes a label (RFC 1123 §2.1) of an instance's name.
func hostname(name, id string) string {
	h := strings.Trim(notInHostname.ReplaceAllString(strings.ToLower(name), "-"), "-")
	if len(h) > 63 {
		h = strings.Trim(h[:63], "-")
	}
	if h == "" {
		return "i-" + id[:8]
	}
	return h
}
