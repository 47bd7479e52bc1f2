// Package match decides which writes concern an admission webhook or policy, and what these see of a
// write. It is what both have in common; neither is here.
//
//   - [Request] is a write on its way through dynamic admission: [request.Attributes], what matching asks of the
//     cluster (looked up once), the object in the version that a rule names, and which of the two rounds of mutation
//     it is in.
//   - [Criteria] are compiled match resources: rules, excluded rules, match policy and selectors.
//     [Criteria.Match] finds the resource as which a request matches, which with the match policy Equivalent may be
//     another version than the one asked for.
//   - [Conditions] are compiled match conditions (CEL).
//   - [Turn] implements reinvocation.
//
// What acts on writes implements admission.Dynamic and is listed in admission.Config.Dynamic; the order there is
// the order of the turns. It is told of every write, after the plugins that are always on, unless it isn't Active:
//
//	func (p *Policies) Mutate(ctx context.Context, r *match.Request) error {
//		turn := r.Begin("MutatingAdmissionPolicy")
//		defer turn.End()
//		for _, policy := range p.snapshot.Load().mutating {
//			target, err := policy.criteria.Match(ctx, r)
//			switch {
//			case err != nil:
//				return err
//			case target == nil:
//				continue
//			}
//			if matches, err := policy.conditions.Match(ctx, r, target, params, p.authorizer); err != nil || !matches {
//				…
//			}
//			if !turn.Runs(policy.key) {
//				continue
//			}
//			versioned, err := r.Versioned(target) // what upstream's CEL packages take
//			…
//			changed, err := r.Replace(target, mutated) // mutated is of target.Kind
//			turn.Ran(policy.key, changed, policy.reinvocable)
//		}
//	}
//
// A refusal is the status error that the client gets; r.Warn and r.Annotate are for one goroutine at a time.
// In Validate the object must not be changed. The kinds that configure admission ([Exempt]) never get here: nobody
// shall lock themselves out.
//
// Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/.
package match
