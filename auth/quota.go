package auth

import (
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Quota is what a project's limits are where they are not the cloud's.
type Quota struct {
	ProjectID string           // or [EveryProject]
	Limits    map[Resource]int // Unlimited, or from 0
}

// EveryProject stands for a project's id where the limits of all projects without their own are meant.
const EveryProject = "*"

// Clone returns a copy that shares nothing.
func (q Quota) Clone() Quota {
	q.Limits = maps.Clone(q.Limits)
	return q
}

// LimitsOf returns the limits of a project: its own, for the rest those of [EveryProject], for the rest [DefaultLimits]. A
// project that is not on record has limits too.
func LimitsOf(r state.Reader, projectID string) Amounts {
	limits := DefaultLimits()
	for _, id := range []string{EveryProject, projectID} {
		if id == "" {
			continue
		}
		q, err := Quotas.Get(r, id)
		if err != nil {
			continue
		}
		for resource, limit := range q.Limits {
			if f := limits.field(resource); f != nil {
				*f = limit
			}
		}
	}
	return limits
}

// CheckQuota returns nil if a project that uses used may have want more, for each resource of which want has more than
// nothing; otherwise a [*QuotaError]. A resource that is not asked for is not checked, so that a project whose limits were
// lowered below what it has keeps it.
//
// It belongs into the transaction that records what want is of, and used must come from a [state.Sum] read in the same
// transaction, over the records that use the resources:
//
//	var ProjectUse = state.NewSum("project-use", Instances, func(i Instance) (string, auth.Amounts) {
//		return i.ProjectID, auth.Amounts{Instances: 1, Cores: i.Flavor.VCPUs, MemoryMiB: i.Flavor.MemoryMiB}
//	})
//	…
//	err := auth.CheckQuota(tx, project, auth.Amounts{Instances: 1, Cores: 4}, ProjectUse.Get(tx, project))
//
// The sum is guarded and so are the project and its limits: of two writers that both saw room for one more, one looks
// again. A project that was deleted is FailedPrecondition.
func CheckQuota(tx *state.Tx, projectID string, want, used Amounts) error {
	if err := CheckProject(tx, projectID); err != nil {
		return err
	}
	return within(projectID, LimitsOf(tx, projectID), want, used)
}

func within(projectID string, limits, want, used Amounts) error {
	e := &QuotaError{ProjectID: projectID}
	for _, r := range Resources() {
		limit, asked, inUse := limits.Of(r), want.Of(r), used.Of(r)
		if asked > 0 && limit != Unlimited && asked > limit-inUse {
			e.Over = append(e.Over, Excess{r, limit, inUse, asked})
		}
	}
	if e.Over == nil {
		return nil
	}
	return e
}

// QuotaError says what a project may not have. It is ResourceExhausted.
type QuotaError struct {
	ProjectID string
	Over      []Excess // at least one, in the order of Resources
}

// Excess is one resource of which too much was asked for.
type Excess struct {
	Resource Resource
	Limit    int
	InUse    int
	Asked    int
}

// Error names each resource, its limit, what is in use and what was asked for.
func (e *QuotaError) Error() string {
	parts := make([]string, len(e.Over))
	for i, o := range e.Over {
		parts[i] = fmt.Sprintf("%s: limit %d, in use %d, asked %d", o.Resource, o.Limit, o.InUse, o.Asked)
	}
	return "quota exceeded: " + strings.Join(parts, "; ")
}

// Unwrap returns the class.
func (e *QuotaError) Unwrap() error { return errdefs.ErrResourceExhausted }
