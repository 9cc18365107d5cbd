//! Attacks: what is sent to do harm gets a safe answer, and nothing unframed, unasked or ambiguous reaches an upstream or a
//! client. Every test judges both the answer and the bytes that a recording upstream received.
//!
//! Which tests play which attack; `…` stands for the rest of a name. HTTP/2 is both ways, agreed by TLS and by prior
//! knowledge. `-`: it cannot be said in that protocol, which has no such thing.
//!
//! | attack | HTTP/1.1 | HTTP/2 |
//! |---|---|---|
//! | A length beside a transfer coding | framing::a_length_beside…, split_anywhere…, behind_another_request… | http2::a_transfer_coding… |
//! | Lengths that differ, or are no plain number | framing::lengths_that_differ… | http2::a_transfer_coding… (its lengths) |
//! | A length twice, or with zeros | framing::a_length_that_is_said_twice… | the same |
//! | Transfer codings: unknown, in a wrong order, disguised | framing::unknown_repeated_and_disguised… | http2::a_transfer_coding… |
//! | A transfer coding in HTTP/1.0 | framing::a_transfer_coding_in_http_1_0… | - |
//! | Bare CR and LF, folded lines | framing::bare_carriage_returns…, heads::folded_lines… | http2::names_and_values… |
//! | Malformed field and request lines | heads::malformed_field_lines…, malformed_request_lines… | http2::names_and_values…, pseudo_fields_that… |
//! | Chunk sizes, line ends of chunks, extensions | framing::chunk_sizes…, chunks_whose_line_ends…, chunk_extensions… | - |
//! | Fields in trailers that decide or frame | bodies::what_decides_or_frames… | the same, http2::pseudo_fields_in_trailers…, trailers_that_do_not_end… |
//! | Large trailers | sizes::trailers_beyond_reason… | sizes::over_http_2_trailers… |
//! | Host missing, repeated, malformed | heads::a_missing_repeated… | http2::pseudo_fields_that…, targets::over_http_2_the_authority_wins… |
//! | Another host in the target than in Host | targets::an_absolute_target_wins… | targets::over_http_2_the_authority_wins… |
//! | Targets of a wrong form | targets::targets_of_another_form… | http2::pseudo_fields_that… |
//! | CONNECT | upgrades::connect_is_refused… | upgrades::over_http_2_connect… |
//! | Fragments, controls and spaces in targets | targets::fragments_controls… | the same, http2::pseudo_fields_that… |
//! | Bytes of paths | targets::the_bytes_of_a_path… | the same |
//! | Sizes of targets and heads | sizes::honest_sizes_pass, targets_and_heads… | sizes::honest_sizes_pass, over_http_2_too_large_heads… |
//! | Hop-by-hop fields of requests | hops::nominated_and_customary… of a request | hops::connection_fields_over_http_2… |
//! | Our own fields nominated as hop-by-hop | hops::no_client_takes_away… | hops::connection_fields_over_http_2… |
//! | Trailer | hops::trailer_goes_on… | proxy::bodies::trailers_pass_both_ways_between… |
//! | TE | hops::over_http_1_1_te… | hops::over_http_2_te… |
//! | Upgrade to h2c | upgrades::an_upgrade_to_h2c… | hops::connection_fields_over_http_2… |
//! | Bytes before a tunnel is granted | upgrades::before_a_101…, while_the_upstream… | upgrades::over_http_2_no_byte_passes… |
//! | A 101 that nobody asked for | upgrades::a_101_that_nobody…, a_switch_to_another… | upgrades::a_101_that_nobody… |
//! | Expect: 100-continue | bodies::an_expectation… | the same |
//! | An early answer to an upload | bodies::an_early_answer… | the same |
//! | The rest of a body that was answered early | bodies::a_body_that_was_answered_early… | the same |
//! | GET with a body | framing::a_get_with_a_body… | the same |
//! | The client leaves, or cuts its request | bodies::a_client_that_leaves…, a_request_that_is_cut… | the same |
//! | A response that is cut | responses::a_response_that_is_cut… | the same |
//! | A bad response head | responses::what_is_no_response_head… | the same |
//! | A response with length and transfer coding | responses::of_a_length_beside… | the same |
//! | Bytes behind a response | responses::bytes_behind_an_answer… | the same |
//! | Interim responses | responses::behind_interim_answers…, limits::interim, all of it | the same |
//! | Hop-by-hop fields of responses | hops::nominated_and_customary… of a response | the same |
//! | POST whose upstream closes unanswered | bodies::a_post_whose_upstream… | the same |
//! | Names, values and pseudo-fields | - | http2::names_and_values…, pseudo_fields_that… |
//! | Two authorities | - | targets::over_http_2_the_authority_wins… |
//! | Transfer coding, and a length that DATA belies | - | http2::a_transfer_coding…, bodies::over_http_2_a_body… |
//! | Pseudo-fields in trailers | - | http2::pseudo_fields_in_trailers… |
//! | Resets by the client, or provoked | - | floods::a_client_that_resets…, a_client_that_makes… |
//! | CONTINUATION without end | - | floods::endless_continuations… |
//! | Empty and padded DATA | - | floods::endless_empty_data… |
//! | Floods of control frames | - | floods::floods_of_control_frames… |
//! | Header compression bombs | - | floods::a_header_section_that_is_small… |
//! | Streams beyond the limit | - | http2::streams_beyond_the_limit…, refusals::streams_beyond_the_limit… |
//! | Windows of nothing | - | idle::what_clients_do_not_read…, an_answer_that_is_not_read… |
//! | Silent and slow clients before a request | idle::clients_that_are_silent…, clients_that_stop_halfway… | the same |
//! | Slow bodies, slow readers | idle::an_upload_that_stands_still…, an_answer_that_is_not_read… | the same |
//! | Clients that spin the processor | limits::spin::clients_that_are_idle… | the same |
//! | Forged forwarding fields | trust::at_the_edge…, from_a_trusted_proxy… | the same |
//! | Overrides and keys of nobody who is trusted, broken, huge | trust::overrides_and_keys…, overrides_that_are_broken… | the same |
//! | Log injection | heads::whatever_stands_in_a_head… | trust::over_http_2_every_log_line… |
//! | An upgrade with a body | upgrades::an_upgrade_with_a_body… | - |
//! | What every refusal leaves behind | heads::what_the_codec_itself…, a_refusal_in_the_middle…, an_upstreams_own_refusal… | refusals, all of it |
//! | A key twice, joined, empty | trust::a_key_that_is_sent_twice… | the same |

mod bodies;
mod floods;
mod frames;
mod framing;
mod heads;
mod hops;
mod http2;
mod idle;
mod language;
mod refusals;
mod responses;
mod sizes;
mod strict;
mod targets;
mod trust;
mod upgrades;
