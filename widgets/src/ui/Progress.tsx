/** A job under way: how far, how fast, how long still, and the way out. */

import * as format from "../format.ts";
import { useQuiet, useStore } from "../hooks.ts";
import { spokenJob } from "../reducers.ts";

interface Props {
  kinds?: readonly string[];
  /** Which ends are told: of what has been done the result tells where it is shown, too. */
  ends?: "all" | "stopped" | "none";
}

export function JobStatus({ kinds, ends = "all" }: Props) {
  const store = useStore("_job");
  const job = store.get("_job");
  const quiet = useQuiet();
  if (!job || (kinds && !kinds.includes(job.kind))) return null;
  const running = job.status === "running" || job.status === "cancelling";
  if (!running) {
    const told = ends === "all" || (ends === "stopped" && job.status === "cancelled");
    return told ? <JobEnd /> : null;
  }
  if (quiet) {
    return (
      <p class="sl-failed" role="alert">
        Nothing has been heard of “{job.label}” for a while: the kernel is busy, or gone.
      </p>
    );
  }
  const known = job.total > 0;
  const share = known ? job.done / job.total : 0;
  const left = job.left != null ? `${format.duration(job.left)} left` : "";
  const speed = format.rate(job.rate, job.unit);
  return (
    <div class="sl-job">
      <div class="sl-job-line">
        <strong>{job.status === "cancelling" ? "Stopping…" : job.label}</strong>
        <button
          type="button"
          class="sl-button"
          disabled={job.status === "cancelling"}
          onClick={() => void store.act({ type: "cancel", job: job.id })}
        >
          Cancel
        </button>
      </div>
      <div
        class={`sl-bar ${known ? "" : "sl-bar-unknown"}`}
        role="progressbar"
        aria-label={job.label}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={known ? Math.round(100 * share) : undefined}
      >
        <span style={{ width: known ? `${100 * share}%` : undefined }} />
      </div>
      <p class="sl-muted">
        {[job.note, known ? `${format.count(job.done)} of ${format.count(job.total)}` : "", speed, left]
          .filter(Boolean)
          .join(" · ")}
      </p>
    </div>
  );
}

function JobEnd() {
  const store = useStore("_job");
  const job = store.get("_job");
  if (!job || job.status === "failed") return null;
  const text =
    job.status === "cancelled"
      ? job.note || "Stopped."
      : `Done in ${format.duration(job.seconds)}${job.note ? `. ${job.note}` : ""}`;
  return <p class="sl-job-end sl-muted">{text}</p>;
}

/** How what somebody has started goes, for ears: always there, so that what changes in it is read. */
export function SpokenJob() {
  const store = useStore("_job");
  return (
    <p class="sl-heard" role="status">
      {spokenJob(store.get("_job"))}
    </p>
  );
}
