// The style sheet of every report: light and dark by the reader's system, no fonts fetched.
#include "train/report/page.h"

namespace sluice::report {

const std::string_view kStyle = R"css(
:root{
  color-scheme:light dark;
  --ground:#fdfdfc;--raised:#f5f6f5;--ink:#1b2126;--soft:#59646d;--faint:#8b959d;--rule:#e2e5e6;--link:#1d5f91;
  --warn:#a34a00;
  --sans:ui-sans-serif,system-ui,-apple-system,"Segoe UI","Helvetica Neue","Noto Sans","Liberation Sans",Arial,sans-serif;
  --mono:ui-monospace,"SF Mono","Cascadia Mono","Noto Sans Mono","DejaVu Sans Mono",Menlo,Consolas,monospace;
}
@media (prefers-color-scheme:dark){:root{
  --ground:#14181b;--raised:#1b2024;--ink:#e1e6e9;--soft:#a0abb3;--faint:#77828a;--rule:#2b3238;--link:#7db9e8;
  --warn:#f2a65a;
}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:3.6rem;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.55 var(--sans);font-variant-numeric:tabular-nums}
header,main,footer,nav>div{max-width:1088px;margin:0 auto;padding:0 24px}
header{padding-top:52px;padding-bottom:30px}
.kind{margin:0 0 6px;font-size:12px;letter-spacing:.09em;text-transform:uppercase;color:var(--faint)}
h1{margin:0;font-size:34px;line-height:1.15;font-weight:640;letter-spacing:-.018em;overflow-wrap:anywhere}
h2{margin:0 0 4px;font-size:21px;line-height:1.25;font-weight:620;letter-spacing:-.01em}
h3{margin:0;font-size:15px;line-height:1.35;font-weight:620}
p{margin:0}
a{color:var(--link)}
.lead{max-width:46rem;color:var(--soft);text-wrap:pretty}
header .lead{margin-top:10px;font-size:16px}
.tiles{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:24px 32px;margin:32px 0 0}
@media (max-width:820px){.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}}
.tiles div{border-top:2px solid var(--ink);padding-top:9px}
.tiles dt{font-size:12.5px;color:var(--soft)}
.tiles dd{margin:1px 0 0;font-size:25px;line-height:1.25;font-weight:600;letter-spacing:-.015em;white-space:nowrap}
.tiles small{display:block;font-size:12.5px;line-height:1.4;color:var(--soft)}
nav{position:sticky;top:0;z-index:2;background:var(--ground);border-bottom:1px solid var(--rule)}
nav>div{display:flex;gap:16px;overflow-x:auto;scrollbar-width:none}
nav a{padding:11px 0 10px;font-size:13px;color:var(--soft);text-decoration:none;white-space:nowrap;border-bottom:2px solid transparent}
nav a:hover{color:var(--ink);border-color:var(--ink)}
section{padding:46px 0 6px}
section+section{border-top:1px solid var(--rule);margin-top:40px}
.pair{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:0 36px}
.group{display:flex;flex-wrap:wrap;gap:0 34px}
.group .chart{flex:0 0 auto;max-width:100%}
@media (max-width:820px){.pair{grid-template-columns:minmax(0,1fr)}}
.chart{position:relative;margin:28px 0 0;min-width:0}
.chart:has(.switch) figcaption{padding-right:100px}
.chart figcaption p{max-width:46rem;margin-top:2px;font-size:13.5px;line-height:1.5;color:var(--soft);text-wrap:pretty}
.head{margin-bottom:-14px}
.canvas{position:relative;margin-top:10px;overflow-x:auto;overflow-y:hidden}
.plot{display:block;width:100%;height:auto;min-width:420px}
.plot.wide{min-width:720px}
.plot.map,.bars .plot{min-width:0}
.plot text{font:12px var(--sans);font-variant-numeric:tabular-nums}
svg .tick,svg .name{fill:var(--soft)}
svg .name{fill:var(--faint)}
svg .end{text-anchor:end}
svg .middle{text-anchor:middle}
.grid{stroke:var(--rule);stroke-width:1}
.axis{stroke:var(--faint);stroke-width:1}
.level{stroke:var(--faint);stroke-width:1;stroke-dasharray:3 4}
.line{fill:none;stroke:var(--c);stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}
.line.dash{stroke-dasharray:5 3.5}
.line.strong{stroke-width:2.3}
.line.faint{stroke-width:1;opacity:.34}
.dot{fill:var(--c);stroke:var(--ground);stroke-width:1.2}
.band{fill:var(--c);opacity:.12}
.bar{fill:var(--c)}
.whisker{fill:none;stroke:var(--ink);stroke-width:1.3}
.label{fill:var(--c);font-weight:600}
svg .value{fill:var(--ink)}
.zero{fill:var(--ink);stroke:var(--ink)}
.cells path{fill:none}
.scale rect{stroke:none}
.cursor{stroke:var(--faint);stroke-width:1;pointer-events:none}
.outline{fill:none;stroke:var(--ink);stroke-width:1.5;pointer-events:none}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:10px 0 0;padding:0;list-style:none;font-size:13px;color:var(--soft)}
.key{display:inline-block;width:18px;height:0;margin-right:7px;vertical-align:middle;border-top:3px solid var(--c);border-radius:2px}
.key.dash{border-top-style:dashed}
.key.faint{opacity:.4}
.scale{display:flex;flex-wrap:wrap;align-items:flex-start;gap:2px 8px;margin-top:12px;font-size:13px;line-height:1;color:var(--soft)}
.scale text{font:11.5px var(--sans);fill:var(--soft)}
.switch{position:absolute;opacity:0}
.switch+label{position:absolute;top:0;right:0;padding:2px 10px;border:1px solid var(--rule);border-radius:99px;font-size:12.5px;color:var(--soft);cursor:pointer;user-select:none}
.switch+label:hover{border-color:var(--faint);color:var(--ink)}
.switch:checked+label{background:var(--ink);border-color:var(--ink);color:var(--ground)}
.switch:focus-visible+label,button:focus-visible,summary:focus-visible{outline:2px solid var(--link);outline-offset:2px}
.switch~.canvas .log,.switch:checked~.canvas .linear{display:none}
.switch:checked~.canvas .log{display:block}
.slider{display:flex;align-items:center;gap:14px;margin-top:12px;font-size:13px;color:var(--soft)}
.slider[hidden]{display:none}
.slider input{flex:0 1 360px;min-width:120px;accent-color:var(--link)}
.slider button{padding:3px 12px;border:1px solid var(--rule);border-radius:99px;background:none;color:var(--ink);font:12.5px var(--sans);cursor:pointer}
.slider button:hover{border-color:var(--faint)}
.tip{position:absolute;z-index:3;left:0;top:0;padding:7px 10px;border-radius:6px;background:var(--ink);color:var(--ground);font-size:12.5px;line-height:1.5;white-space:nowrap;pointer-events:none;box-shadow:0 2px 10px rgb(0 0 0/.18)}
.tip[hidden]{display:none}
.tip i{display:inline-block;width:9px;height:9px;margin-right:7px;border-radius:99px;background:var(--c)}
.tip b{font-weight:600}
details{margin-top:8px;font-size:13.5px}
summary{display:inline-block;cursor:pointer;color:var(--faint);font-size:12.5px}
summary:hover{color:var(--ink)}
.scroll{overflow-x:auto}
table{border-collapse:collapse}
caption{padding:6px 0;text-align:left;font-size:12.5px;color:var(--faint)}
th{text-align:left;font-weight:500}
.values td,.values th{padding:4px 12px 4px 0;white-space:nowrap;border-top:1px solid var(--rule)}
.values small{display:block;color:var(--faint)}
.facts{margin-top:20px;width:100%}
.facts th,.facts td{padding:7px 16px 7px 0;vertical-align:top;border-top:1px solid var(--rule)}
.facts th{width:15rem;color:var(--soft)}
.facts td{overflow-wrap:anywhere}
.list{margin-top:20px;width:100%;font-size:14px}
.list th,.list td{padding:7px 16px 7px 0;vertical-align:top;text-align:right;border-top:1px solid var(--rule)}
.list thead th{border-top:0;color:var(--soft);font-size:12.5px;vertical-align:bottom}
.list .text{text-align:left}
.wide{font-size:13.5px}
.wide td,.wide th{white-space:nowrap}
.list .best{font-weight:640}
.list small{color:var(--faint)}
.missing{margin-top:18px;padding:12px 16px;max-width:46rem;border-left:3px solid var(--rule);color:var(--soft)}
pre{margin:20px 0 0;padding:18px 20px;max-height:34rem;overflow:auto;background:var(--raised);border-radius:8px;font:12.5px/1.6 var(--mono);tab-size:2}
pre .k{color:var(--link)}
pre .n{color:var(--number)}
pre .s{color:var(--string)}
pre .w{color:var(--word)}
pre .m{color:var(--faint)}
:root{--number:#8a4b08;--string:#2c6a45;--word:#7a3f86}
footer{padding-top:44px;padding-bottom:60px;font-size:12.5px;color:var(--faint)}
.c0{--c:#0b6fb3}.c1{--c:#cf5a0c}.c2{--c:#0a8a66}.c3{--c:#b4559a}.c4{--c:#b78300}.c5{--c:#3fa0d8}.c6{--c:#6e56b0}.c7{--c:#5d6770}
.q0{--c:#2d1e6b}.q1{--c:#2e3f8f}.q2{--c:#275da0}.q3{--c:#1f79a3}.q4{--c:#1e929b}.q5{--c:#2fa98a}.q6{--c:#5fb970}.q7{--c:#93bf52}.q8{--c:#bdb53c}.q9{--c:#d9a02c}
@media (prefers-color-scheme:dark){
:root{--number:#f0b070;--string:#8fcfa5;--word:#d3a4e0}
.c0{--c:#55aee8}.c1{--c:#ff9450}.c2{--c:#3ccb9f}.c3{--c:#e79fd0}.c4{--c:#e8b93c}.c5{--c:#a5dafa}.c6{--c:#b3a0ee}.c7{--c:#a9b3ba}
.q0{--c:#8f83e6}.q1{--c:#7f98ee}.q2{--c:#68abec}.q3{--c:#55bcdf}.q4{--c:#4ecbc9}.q5{--c:#5dd6ab}.q6{--c:#86df8a}.q7{--c:#b4e370}.q8{--c:#dbdf66}.q9{--c:#f5cf62}
}
@media print{nav,.slider,.switch+label,details{display:none}pre{max-height:none}.chart{break-inside:avoid-page}}
)css";

}  // namespace sluice::report
