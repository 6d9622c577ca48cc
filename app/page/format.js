// Formats numbers, durations and times for display.

const NONE = "–";

const digits = (value) => (value >= 100 ? 0 : value >= 10 ? 1 : 2);
const plain = (value, most) => value.toLocaleString("en", { maximumFractionDigits: most });

export function count(value) {
  return value === null || value === undefined ? NONE : plain(value, 0);
}

/** 1,234 or 12.3 or 0.25, and 12.3k from 10,000 on. */
export function rate(value) {
  if (value === null || value === undefined) return NONE;
  return value >= 10_000 ? `${plain(value / 1000, 1)}k` : plain(value, digits(value));
}

/** Seconds as ms, s or min, with two or three significant digits. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  const ms = seconds * 1000;
  if (seconds === 0) return "0 ms";
  if (ms < 1) return `${plain(ms, 2)} ms`;
  if (ms < 1000) return `${plain(ms, ms < 10 ? 1 : 0)} ms`;
  if (seconds < 100) return `${plain(seconds, seconds < 10 ? 2 : 1)} s`;
  return `${plain(seconds / 60, 1)} min`;
}

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${plain(value, unit === 0 ? 0 : digits(value))} ${units[unit]}`;
}

/** An elapsed time: 12 s, 4 min, 2 h 5 min, 3 d 4 h. */
export function age(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${Math.floor(hours / 24)} d`;
}

/** The local time of day of a Unix time, in 24-hour format. */
export function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString("en-GB");
}

export function date(unix) {
  return new Date(unix * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
}
